// A device for tests, called "pretend": its memory is the host's and torch's CPU kernels compute for it, but torch
// takes it for a device of its own, as a GPU is one. What mixes it with the CPU is refused as CUDA refuses it.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

using at::Tensor;

constexpr auto KIND = c10::DeviceType::PrivateUse1;

struct HostMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? std::malloc(bytes) : nullptr;
    return {data, data, &std::free, c10::Device(KIND, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const final { default_copy_data(to, from, bytes); }
};

HostMemory memory;
REGISTER_ALLOCATOR(KIND, &memory);

// One device, whose work is done when a call returns: a stream and its events have nothing to wait for.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  c10::Device exchangeDevice(c10::Device) const override { return c10::Device(KIND, 0); }
  c10::Device getDevice() const override { return c10::Device(KIND, 0); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream getDefaultStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  at::Device getDeviceFromPtr(void*) const override { return at::Device(KIND, 0); }
};

// A GPU draws from a generator of its own, and so does this device.
at::Generator& generator() {
  static at::Generator made = at::detail::createCPUGenerator(0);
  return made;
}

bool is_ours(const Tensor& tensor) { return tensor.defined() && tensor.device().type() == KIND; }

// The same memory and view of it, as the CPU's.
Tensor on_cpu(const Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void*) {},
                       tensor.options().device(at::kCPU).requires_grad(false));
}

// And back.
Tensor on_device(const Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), [tensor](void*) {},
                       tensor.options().device(KIND).requires_grad(false), at::Device(KIND, 0));
}

Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  (is_ours(to) ? on_cpu(to) : to).copy_(is_ours(from) ? on_cpu(from) : from);
  return to;
}

at::Tensor& set_storage(Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size,
                        c10::IntArrayRef stride) {
  return at::cpu::set_(self, source, offset, size, stride);
}

at::Tensor& set_whole_storage(Tensor& self, at::Storage source) { return at::cpu::set_(self, source); }

const Tensor& resize(const Tensor& self, c10::IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  size_t bytes = (impl->storage_offset() + self.numel()) * self.element_size();
  if (bytes > self.storage().nbytes()) {
    auto larger = memory.allocate(bytes);
    std::memcpy(larger.get(), self.storage().data(), self.storage().nbytes());
    self.storage().set_data_ptr(std::move(larger));
    self.storage().set_nbytes(bytes);
  }
  return self;
}

// Runs the CPU's kernel of an operator on the memory of the tensors that it is given.
void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  auto count = schema.arguments().size();
  std::vector<std::pair<Tensor, Tensor>> given;  // ours, and the CPU's of the same memory
  auto take = [&](const Tensor& tensor) -> Tensor {
    if (!tensor.defined()) return tensor;
    if (!is_ours(tensor)) {
      TORCH_CHECK(tensor.dim() == 0, "Expected all tensors to be on the same device, but found at least two devices, ",
                  "pretend:0 and ", tensor.device(), " (", schema.operator_name(), ")");
      return tensor;
    }
    for (auto& [ours, cpu] : given)
      if (ours.is_same(tensor)) return cpu;
    // An empty one may be an output, which the operator gives its size.
    bool is_empty = tensor.numel() == 0;
    given.emplace_back(tensor, is_empty ? at::empty(tensor.sizes(), tensor.options().device(at::kCPU)) : on_cpu(tensor));
    return given.back().second;
  };
  auto arguments = torch::jit::last(stack, count);
  std::vector<c10::IValue> changed(arguments.begin(), arguments.end());
  for (size_t place = 0; place < count; ++place) {
    auto& value = changed[place];
    if (value.isNone() && schema.arguments()[place].type()->str() == "Generator?") {
      value = generator();
    } else if (value.isTensor()) {
      value = take(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(take(tensor));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector())
        list.push_back(tensor ? std::optional<Tensor>(take(*tensor)) : std::nullopt);
      value = list;
    } else if (value.isDevice()) {
      value = c10::Device(at::kCPU);
    }
  }
  torch::jit::drop(stack, count);
  for (auto& value : changed) stack->push_back(value);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (auto& [ours, cpu] : given)
    if (!ours.sizes().equals(cpu.sizes())) {  // an output that was made larger
      ours.resize_(cpu.sizes());
      on_cpu(ours).copy_(cpu);
    }
  auto give = [&](const Tensor& tensor) -> Tensor {
    if (!tensor.defined()) return tensor;
    for (auto& [ours, cpu] : given)
      if (cpu.is_same(tensor)) return ours;
    return on_device(tensor);
  };
  auto results = schema.returns().size();
  auto returned = torch::jit::last(stack, results);
  std::vector<c10::IValue> values(returned.begin(), returned.end());
  torch::jit::drop(stack, results);
  for (auto& value : values) {
    if (value.isTensor()) {
      value = give(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> list;
      for (const Tensor& tensor : value.toTensorVector()) list.push_back(give(tensor));
      value = list;
    }
    stack->push_back(value);
  }
}

struct Registered {
  Registered() { at::RegisterPrivateUse1HooksInterface(new Hooks()); }
} registered;

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("resize_", &resize);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY(pretend, m) {
  m.def("get_state", [] { return generator().get_state(); });
  m.def("set_state", [](const Tensor& state) { generator().set_state(state); });
  m.def("seed", [](int64_t seed) { generator().set_current_seed(seed); });
}

// What CUDA's autocast computes in fewer bits, and what in float32, as far as transformers use it.
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  KERNEL_PRIVATEUSEONE(linear, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(matmul, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(addmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(mm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(bmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(baddbmm, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(scaled_dot_product_attention, lower_precision_fp)
  KERNEL_PRIVATEUSEONE(layer_norm, fp32)
  KERNEL_PRIVATEUSEONE(cross_entropy_loss, fp32)
  KERNEL_PRIVATEUSEONE(mse_loss, fp32)
  KERNEL_PRIVATEUSEONE(norm, Scalar, fp32)
  KERNEL_PRIVATEUSEONE(pow, Tensor_Scalar, fp32)
}

}  // namespace
