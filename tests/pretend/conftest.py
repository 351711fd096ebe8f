"""Tests on a device that is not the CPU, on a machine that has the CPU alone; tests/train/test_device.py starts them.

They run in a process of their own, since torch keeps a device once it has it, and all of qvtune would use it.
"""

import os

PRETENDS = os.environ.get("QVTUNE_TESTS_PRETEND") == "1"
collect_ignore_glob = [] if PRETENDS else ["test_*.py"]

if PRETENDS:
    import device
    import transformers.training_args

    device.load()
    # What accelerate and transformers are told where they do not know a device by themselves: where it is, and that it
    # multiplies bfloat16.
    os.environ["ACCELERATE_TORCH_DEVICE"] = f"{device.NAME}:0"
    transformers.training_args.is_torch_bf16_gpu_available = lambda: True
