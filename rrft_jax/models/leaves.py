"""Weights of layers that are stored in another form, and dequantized when their layer runs.

  {"int8", "scale"}      eight bits and a scale for each output (`int8.py`)
  {"value", "gradient"}  the weights of the computation, and a float32 array that nothing reads: it
                         receives the gradient of the weights (`cast`)

They are dequantized inside the scan over layers, so that at most one layer is whole at a time.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from rrft_jax.models.arrays import Array

Layer = TypeVar("Layer", bound=type[nn.Module])


def any_stored(weights: dict) -> bool:
    """Return whether any of these weights is stored in another form."""
    return any(map(_is_stored, jax.tree.leaves(weights, is_leaf=_is_stored)))


def dequantized(layer: Layer) -> Layer:
    """Return the layer class for weights some of which are stored in another form."""
    return nn.map_variables(layer, "params", trans_in_fn=whole)


def cast(weights: dict, dtype: Any) -> dict:
    """Cast the layers' matrices [L,in,out] to `dtype`, each beside an array for its gradient.

    If the float32 weights are widened bfloat16 ones (`training/state.py: update`), a compiled
    program keeps only the bfloat16 ones, and no loop over layers holds a float32 copy.
    """

    def stored(x: Any) -> Any:
        if _is_stored(x) or x.ndim < 3 or x.dtype.itemsize <= jnp.dtype(dtype).itemsize:
            return x
        return {"value": jax.lax.stop_gradient(x).astype(dtype), "gradient": x}

    return jax.tree.map(stored, weights, is_leaf=_is_stored)


def _is_stored(x: Any) -> bool:
    return isinstance(x, dict) and ("int8" in x or "value" in x)


def whole(weights: dict) -> dict:
    """Return the weights, those that are stored in another form dequantized."""

    def one(x: Any) -> Any:
        if not _is_stored(x):
            return x
        return x["int8"] * x["scale"] if "int8" in x else _widened(x["value"], x["gradient"])

    return jax.tree.map(one, weights, is_leaf=_is_stored)


@jax.custom_vjp
def _widened(value: Array, gradient: Array) -> Array:
    """Return the value in the dtype of `gradient`, which gets the gradient of the result."""
    return value.astype(gradient.dtype)


def _forward(value, gradient):
    return _widened(value, gradient), None


def _backward(_, of_whole):
    return None, of_whole


_widened.defvjp(_forward, _backward)
