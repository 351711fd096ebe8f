// What Python calls, for float32 (`_f32`) and bfloat16 (`_bf16`). Every kernel returns the bytes that it asked for in
// vain: 0 when it has computed.
#include "attention.h"
#include "matrices.h"
#include "rows.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void random_bits(uint64_t key, Index words_wanted, uint16_t* out) {
    constexpr Index CHUNK = 1024;
#pragma omp parallel for schedule(static)
    for (Index start = 0; start < words_wanted; start += CHUNK) {
        uint16_t bits[CHUNK * PER_WORD + 4 * W];
        Index count = (words_wanted - start < CHUNK ? words_wanted - start : CHUNK) * PER_WORD;
        fill_bits(key, start, count, bits);
        memcpy(out + start * PER_WORD, bits, count * sizeof(uint16_t));
    }
}

EXPORT int32_t may_use_tiles() {
#ifdef __AMX_BF16__
    return tiles_are_granted();
#else
    return 0;
#endif
}

EXPORT Index product_bf16(const bf16* x, const bf16* w, const bf16* bias, bf16* out, Index rows, Index d, Index o) {
#ifdef __AMX_BF16__
    return product_by_tiles(x, w, bias, out, rows, d, o);
#else
    return 0;
#endif
}

template <class T>
static Attention<T> attention(const T* query, const T* key, const T* value, const void* mask, const Index* numbers,
                              float scaling, Drop drop) {
    const Index* n = numbers;
    bool is_boolean = n[13];
    return {query, key, value, {n[0], n[1], n[2]}, {n[3], n[4], n[5]}, {n[6], n[7], n[8]},
            is_boolean ? (const uint8_t*)mask : nullptr, is_boolean ? nullptr : (const T*)mask, {n[9], n[10], n[11]}, n[12],
            n[14], n[15], n[16], n[17], n[18], n[19], (bool)n[20], scaling, drop};
}

#define KERNELS(T, NAME)                                                                                                 \
    EXPORT Index drop_##NAME(const T* x, T* out, Index rows, Index d, uint64_t key, int32_t below, float scale) {        \
        drop_elements(x, out, rows, d, {key, below, scale});                                                             \
        return 0;                                                                                                        \
    }                                                                                                                    \
    EXPORT Index erf_gelu_##NAME(const T* x, T* out, T* slope, Index n) {                                                \
        activate<T, ErfGelu>(x, out, slope, n);                                                                          \
        return 0;                                                                                                        \
    }                                                                                                                    \
    EXPORT Index tanh_gelu_##NAME(const T* x, T* out, T* slope, Index n) {                                               \
        activate<T, TanhGelu>(x, out, slope, n);                                                                         \
        return 0;                                                                                                        \
    }                                                                                                                    \
    EXPORT Index silu_##NAME(const T* x, T* out, T* slope, Index n) {                                                    \
        activate<T, Silu>(x, out, slope, n);                                                                             \
        return 0;                                                                                                        \
    }                                                                                                                    \
    EXPORT Index multiply_##NAME(const T* a, const T* b, T* out, Index n) {                                              \
        multiply_elements(a, b, out, n);                                                                                 \
        return 0;                                                                                                        \
    }                                                                                                                    \
    EXPORT Index residual_norm_##NAME(const T* x, const T* residual, const float* gain, const float* shift,              \
                                      float epsilon, T* out, T* normed, float* inverse, Index rows, Index d,             \
                                      uint64_t key, int32_t below, float scale) {                                        \
        return residual_norm<T>(x, residual, gain, shift, epsilon, {key, below, scale}, out, normed, inverse, rows, d);  \
    }                                                                                                                    \
    EXPORT Index residual_norm_backward_##NAME(const T* gradient, const T* normed, const float* inverse,                 \
                                               const float* gain, T* grad_x, T* grad_residual, Index rows, Index d,      \
                                               uint64_t key, int32_t below, float scale) {                               \
        return residual_norm_backward<T>(gradient, normed, inverse, gain, {key, below, scale}, grad_x, grad_residual,    \
                                         rows, d);                                                                       \
    }                                                                                                                    \
    EXPORT Index lora_##NAME(const T* x, const float* a, const float* b, T* out, float* down, Index rows, Index d,       \
                             Index o, Index rank, float factor, uint64_t key, int32_t below, float scale) {              \
        return lora<T>(x, a, b, {key, below, scale}, factor, out, down, rows, d, o, rank);                               \
    }                                                                                                                    \
    EXPORT Index lora_backward_##NAME(const T* gradient, const T* x, const float* a, const float* b, const float* down,  \
                                      T* grad_x, float* grad_a, float* grad_b, Index rows, Index d, Index o, Index rank, \
                                      float factor, uint64_t key, int32_t below, float scale) {                          \
        return lora_backward<T>(gradient, x, a, b, down, {key, below, scale}, factor, grad_x, grad_a, grad_b, rows, d,   \
                                o, rank);                                                                                \
    }                                                                                                                    \
    EXPORT Index attention_##NAME(const T* query, const T* key, const T* value, const void* mask, const Index* numbers,  \
                                  float scaling, T* out, float* logsumexp, uint64_t seed, int32_t below, float scale) {  \
        return attention<T>(query, key, value, mask, numbers, scaling, {seed, below, scale}).forward(out, logsumexp);    \
    }                                                                                                                    \
    EXPORT Index attention_backward_##NAME(const T* query, const T* key, const T* value, const void* mask,               \
                                           const Index* numbers, float scaling, const T* gradient,                       \
                                           const float* logsumexp, T* grad_query, T* grad_key, T* grad_value,            \
                                           uint64_t seed, int32_t below, float scale) {                                  \
        return attention<T>(query, key, value, mask, numbers, scaling, {seed, below, scale})                             \
            .backward(gradient, logsumexp, grad_query, grad_key, grad_value);                                            \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
