"""Weights of layers that are stored in parts, and made whole when it is their layer's turn.

  {"int8", "scale"}      eight bits and a scale for each output (`int8.py`)
  {"value", "gradient"}  what is computed with, and a float32 array that nothing reads: the gradient
                         of the whole goes to it (`cast`)

It is done inside the scan over layers, so that there is never more than one layer made whole.
"""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

Layer = TypeVar("Layer", bound=type[nn.Module])


def in_parts(weights: dict) -> bool:
    """Whether any of these weights is stored in parts."""
    return any(map(_is_stored, jax.tree.leaves(weights, is_leaf=_is_stored)))


def dequantized(layer: Layer) -> Layer:
    """The layer class for weights of which some are stored in parts."""
    return nn.map_variables(layer, "params", trans_in_fn=_whole)


def cast(weights: dict, dtype: Any) -> dict:
    """Matrices of layers [L,in,out] cast to `dtype`, each beside what its gradient goes to.

    Of float32 weights that are bfloat16 ones widened (`training/state.py: update`) nothing is left
    in a compiled program but the bfloat16 ones, and no loop over layers holds a float32 copy.
    """

    def parts(x: Any) -> Any:
        if _is_stored(x) or x.ndim < 3 or x.dtype.itemsize <= jnp.dtype(dtype).itemsize:
            return x
        return {"value": jax.lax.stop_gradient(x).astype(dtype), "gradient": x}

    return jax.tree.map(parts, weights, is_leaf=_is_stored)


def _is_stored(x: Any) -> bool:
    return isinstance(x, dict) and ("int8" in x or "value" in x)


def _whole(variables: dict) -> dict:
    def whole(x: Any) -> Any:
        if not _is_stored(x):
            return x
        return x["int8"] * x["scale"] if "int8" in x else _widened(x["value"], x["gradient"])

    return jax.tree.map(whole, variables, is_leaf=_is_stored)


@jax.custom_vjp
def _widened(value: jax.Array, gradient: jax.Array) -> jax.Array:
    """The value in the dtype of `gradient`, which gets the gradient of the result."""
    return value.astype(gradient.dtype)


def _forward(value, gradient):
    return _widened(value, gradient), None


def _backward(_, of_whole):
    return None, of_whole


_widened.defvjp(_forward, _backward)
