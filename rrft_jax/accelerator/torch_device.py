"""The device that torch computes on, beside JAX's."""

from typing import Any

import jax

from rrft_jax.accelerator.findings import Skip


def require() -> Any:
    """Return the module `torch`.

    Raises:
      Skip: torch or transformers is not installed, or torch can't compute on JAX's kind of device.
    """
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise Skip(f"{error.name} is not installed: nothing to compare with") from None
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        raise Skip(f"torch {torch.__version__} sees no GPU: install its build for CUDA")
    if jax.default_backend() == "tpu":
        raise Skip("torch doesn't compute on TPUs here")
    return torch


def name() -> str:
    """Return the name of the device for torch."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"
