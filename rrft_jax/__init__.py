"""Fine-tunes Qwen-VL models for visual reasoning in JAX: chain-of-thought SFT, then GRPO."""

import os

__version__ = "0.1.0"

# A machine without a GPU may have JAX's plug-in for GPUs, to compile for absent ones. When JAX
# starts, the plug-in would print that CUDA is missing. This variable keeps it from looking.
if not any(map(os.path.exists, ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))):
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")


def __getattr__(name: str):
    if name == "load":  # imported when it is used, because it brings JAX along
        from rrft_jax.asking import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
