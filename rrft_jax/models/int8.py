"""Weights in eight bits, for a model that is read and never trained.

The matrices of both towers' layers [L,in,out], nearly all of a model, become whole numbers between
-127 and 127 and a float32 scale for each output of each layer (symmetric, by the largest weight of
the output: https://arxiv.org/abs/2208.07339), which `leaves.py` makes whole again. Everything else,
the embedding and the head above all, is cast to the dtype that the model computes in.
"""

from typing import Any

import jax
import jax.numpy as jnp

from rrft_jax.models import table
from rrft_jax.models.config import VLMConfig

LARGEST = 127
_KERNELS = {e.path for e in table.TABLE if e.stacked and e.path.endswith("/kernel")}


def quantise(params: dict, dtype: Any) -> dict:
    """The parameters, of the layers' matrices {"int8", "scale"}, everything else in `dtype`."""
    return _map(params, lambda path, x: _quantise(x) if path in _KERNELS else x.astype(dtype))


def parameter_axes(config: VLMConfig) -> dict:
    """A tree like the quantised parameters, of axis letters as `parallel.sharding` reads them."""

    def letters(path: str, axes: str) -> Any:
        if path not in _KERNELS:
            return axes
        return {"int8": axes, "scale": f"{axes[0]}.{axes[2]}"}

    return _map(table.parameter_axes(config), letters)


def _quantise(kernel: jax.Array) -> dict:
    kernel = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(kernel), axis=1, keepdims=True) / LARGEST
    scale = jnp.where(scale == 0, 1.0, scale)  # of an output that is always zero
    return {"int8": jnp.round(kernel / scale).astype(jnp.int8), "scale": scale}


def _map(params: dict, function) -> dict:
    flat = table.flatten(params)
    return table.unflatten({path: function(path, x) for path, x in flat.items()})
