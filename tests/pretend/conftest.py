"""Tests on a device that is not the CPU, where there is the CPU alone; tests/training/test_device.py starts them.

They run in a process of their own, since torch keeps a device once it has it, and all of qvtune would use it.
"""

import os

PRETENDS = os.environ.get("QVTUNE_TESTS_PRETEND") == "1"
collect_ignore_glob = [] if PRETENDS else ["test_*.py"]

if PRETENDS:
    import device
    import torch
    import transformers.training_args

    from qvtune.training import processes

    device.load()
    # What accelerate and transformers are told where they do not know a device by themselves: where it is, and that it
    # multiplies bfloat16.
    os.environ["ACCELERATE_TORCH_DEVICE"] = f"{device.NAME}:0"
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True

    class Accelerator(processes.Accelerator):
        """Accelerate's, which lists the devices with float16 by name."""

        def __init__(self, **kwargs) -> None:
            is_half = kwargs["mixed_precision"] == "fp16" and not kwargs["cpu"]
            super().__init__(**kwargs | ({"mixed_precision": "no"} if is_half else {}))
            if is_half:
                self.state._mixed_precision, self.native_amp = "fp16", True
                self.scaler = torch.amp.GradScaler(device.NAME)

    processes.Accelerator = Accelerator
