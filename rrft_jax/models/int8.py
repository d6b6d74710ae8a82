"""Weights in eight bits, for a model that is read and never trained.

The matrices of both towers' layers [L,in,out], nearly all of a model, become whole numbers between
-127 and 127 and a float32 scale for each output of each layer (symmetric, by the largest weight of
the output: https://arxiv.org/abs/2208.07339). `leaves.py` makes them whole again. Everything else,
above all the embedding and the head, is cast to the compute dtype.
"""

from typing import Any

import jax.numpy as jnp

from rrft_jax.models import table
from rrft_jax.models.arrays import Array
from rrft_jax.models.config import VLMConfig

LARGEST = 127


def quantise(params: dict, dtype: Any) -> dict:
    """Return the parameters, the layers' matrices as {"int8", "scale"}, all others in `dtype`."""
    return _map(
        params, lambda path, x: _quantise(x) if _is_matrix(path, x.ndim) else x.astype(dtype)
    )


def parameter_axes(config: VLMConfig) -> dict:
    """Return a tree like the quantised parameters, of logical axes."""

    def quantised(path: str, axes: str) -> Any:
        if not _is_matrix(path, len(axes)):
            return axes
        return {"int8": axes, "scale": f"{axes[0]}.{axes[2]}"}

    return _map(table.parameter_axes(config), quantised)


def _is_matrix(path: str, rank: int) -> bool:
    """Return whether a parameter is a stack [L,in,out] of the layers' matrices."""
    return path.endswith("/kernel") and rank == 3


def _quantise(kernel: Array) -> dict:
    kernel = kernel.astype(jnp.float32)
    scale = jnp.max(jnp.abs(kernel), axis=1, keepdims=True) / LARGEST
    scale = jnp.where(scale == 0, 1.0, scale)  # an output that is always zero
    return {"int8": jnp.round(kernel / scale).astype(jnp.int8), "scale": scale}


def _map(params: dict, function) -> dict:
    flat = table.flatten(params)
    return table.unflatten({path: function(path, x) for path, x in flat.items()})
