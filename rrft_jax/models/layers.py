"""Linear maps, MLPs, norms and the embedding, whose parameters' gradients are float32 sums.

Every token reads a parameter, so its gradient is a sum over all tokens. bfloat16 has eight bits:
256 + 1 is 256 there, and a long sum stops growing. So a parameter is first widened to float32, then
rounded to the compute dtype at its use. Then its gradient is widened before it is summed. In
float32 nothing differs from the usual computation.

MLPs and norms are the parts that `VLMConfig` chooses from.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float, Int

from rrft_jax.models.arrays import Array

# The names of what rematerialisation may keep: products with weights, and attention's results.
PRODUCT, ATTENTION = "product", "attention"


class Dense(nn.Module):
    """A linear map; with a low-rank one beside it if it has weights in the collection "adapter"."""

    width: int
    dtype: Any
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
        shape = (x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        x = x.astype(self.dtype)
        y = product(x, kernel, self.dtype)
        if self.has_variable("adapter", "a"):
            y = (widened(y) + widened(self._low_rank(x))).astype(self.dtype)
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            y = (widened(y) + rounded(bias, self.dtype)).astype(self.dtype)
        return y

    def _low_rank(self, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
        """Return (x a) b, with dropout on x if there are random keys (`adapter.dropped`)."""
        own = {name: self.get_variable("adapter", name) for name in ("a", "b", "keys", "keep")}
        if own["keys"] is not None:
            x = _dropped(x, own["keys"], own["keep"])
        return product(product(x, own["a"], self.dtype), own["b"], self.dtype)


def _dropped(x: Float[Array, "B *N I"], keys: Array, keep: Array) -> Float[Array, "B *N I"]:
    """Return x with each value kept with probability `keep` and scaled up, or else 0.

    Each row of B draws from a key of its own, so no draw depends on the rows beside it.
    """
    keys = jax.random.wrap_key_data(keys)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))(keys)
    return jnp.where(kept, widened(x) / keep, 0).astype(x.dtype)


ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


class MLP(nn.Module):
    """Two linear maps with an activation between."""

    width: int
    out_width: int
    activation: str
    bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
        hidden = Dense(self.width, self.dtype, self.bias, name="fc1")(x)
        hidden = ACTIVATIONS[self.activation](hidden)
        return Dense(self.out_width, self.dtype, self.bias, name="fc2")(hidden)


class GatedMLP(nn.Module):
    """An MLP with gated hidden values (https://arxiv.org/abs/2002.05202)."""

    width: int
    out_width: int
    activation: str
    bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*N I"]) -> Float[Array, "*N O"]:
        gate = Dense(self.width, self.dtype, self.bias, name="gate")(x)
        up = Dense(self.width, self.dtype, self.bias, name="up")(x)
        hidden = ACTIVATIONS[self.activation](gate) * up
        return Dense(self.out_width, self.dtype, self.bias, name="down")(hidden)


class Embedding(nn.Module):
    """A table with a row for each token."""

    tokens: int
    width: int
    dtype: Any

    def setup(self):
        shape = (self.tokens, self.width)
        self.embedding = self.param("embedding", nn.initializers.normal(0.02), shape)

    def __call__(self, tokens: Int[Array, "*N"]) -> Float[Array, "*N D"]:
        return _rows(self.embedding, tokens, self.tokens).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rows(
    table: Float[Array, "V D"], tokens: Int[Array, "*N"], number: int
) -> Float[Array, "*N D"]:
    """Return rows of a table of `number` rows, not widened: a sampler reads it at each token."""
    return jnp.take(table, tokens, axis=0)


def _rows_forward(table, tokens, number):
    return _rows(table, tokens, number), tokens


def _rows_backward(number, tokens, gradient):
    total = jnp.zeros((number, gradient.shape[-1]), widened(gradient).dtype)
    return total.at[tokens].add(widened(gradient)).astype(gradient.dtype), None


_rows.defvjp(_rows_forward, _rows_backward)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation (https://arxiv.org/abs/1607.06450) with the exact variance."""

    use_fast_variance: bool = False


class RMSNorm(nn.Module):
    """Root mean square normalisation (https://arxiv.org/abs/1910.07467), computed in float32."""

    epsilon: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (widened(x.astype(self.dtype)) * rounded(scale, self.dtype)).astype(self.dtype)


def widened(x: Array) -> Array:
    """Return the same numbers in float32 at least; integers stay as they are."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x.astype(_wide(x))


def _wide(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def broadcast(x: Array, shape: tuple[int, ...]) -> Array:
    """Return `jnp.broadcast_to`, with a gradient that is a float32 sum over the copies."""
    return jnp.broadcast_to(_held(x), shape).astype(x.dtype)


def rounded(parameter: Array, dtype: Any) -> Array:
    """Return the parameter rounded to `dtype`, in float32; its gradient passes unchanged."""
    own, to = jnp.finfo(parameter.dtype), jnp.finfo(dtype)
    if to.bits >= own.bits:
        return _held(parameter)
    return _rounded(widened(parameter), (to.nexp, to.nmant))


def _held(x: Array) -> Array:
    """Return `widened`, and keep XLA on TPUs from computing the sum in the narrower dtype.

    XLA on TPUs sums in the dtype that a sum is cast to. Rounding the sum first, which changes
    nothing else, prevents this.
    """
    own = jnp.finfo(x.dtype)
    return x if own.bits >= 32 else jax.lax.reduce_precision(widened(x), own.nexp, own.nmant)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _rounded(x: Array, bits: tuple[int, int]) -> Array:
    return jax.lax.reduce_precision(x, *bits)  # XLA may optimise away a cast there and back


@_rounded.defjvp
def _(bits, primals, tangents):
    return _rounded(*primals, bits), tangents[0]


def product(
    x: Float[Array, "*N I"], kernel: Float[Array, "I O"], dtype: Any
) -> Float[Array, "*N O"]:
    """Return x times the kernel rounded to x's dtype, as an array of `dtype`.

    The kernel's gradient is a float32 sum over the tokens of all devices, never rounded.
    """
    return checkpoint_name(_product(x, kernel, (x.dtype, jnp.dtype(dtype))), PRODUCT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: Array, kernel: Array, dtypes: tuple[jnp.dtype, jnp.dtype]) -> Array:
    """Return `product` for the dtypes of (x, the result)."""
    return _dot(x, kernel.astype(x.dtype), 0, dtypes[1])


def _forward(x, kernel, dtypes):
    # A frozen kernel has no gradient, so x is not kept for it. The kernel is kept as it came, which
    # copies nothing in a loop over layers.
    kept = x.value if kernel.perturbed else None, kernel.value
    return _product(x.value, kernel.value, dtypes), kept


def _backward(dtypes, kept, gradient):
    (x, kernel), (narrow, dtype) = kept, dtypes
    if isinstance(gradient, SymbolicZero):
        return None, None
    of_x = _dot(gradient, kernel.astype(narrow), 1, dtype).astype(narrow)
    if x is None:
        return of_x, None
    return of_x, _summed(x, gradient, _wide(kernel)).astype(kernel.dtype)


_product.defvjp(_forward, _backward, symbolic_zeros=True)


def _dot(x: Array, kernel: Array, axis: int, dtype: Any) -> Array:
    """Contract the last axis of x with one of the kernel's two."""

    def dot(x):
        axes = (x.ndim - 1,), (axis,)
        return jax.lax.dot_general(x, kernel, (axes, ((), ())), preferred_element_type=dtype)

    def of_matrices(x):
        return dot(_matrix(x)).reshape(*x.shape[:-1], -1)

    return _by_platform(dot, of_matrices, x)


def _summed(x: Array, y: Array, dtype: Any) -> Array:
    """Return the sum over tokens of the products of x and y, [I,O]."""

    def dot(x, y):
        tokens = tuple(range(x.ndim - 1))
        axes = (tokens, tokens), ((), ())
        return jax.lax.dot_general(x, y, axes, preferred_element_type=dtype)

    def of_matrices(x, y):
        return dot(_matrix(x), _matrix(y))

    return _by_platform(dot, of_matrices, x, y)


def _by_platform(general: Callable, of_matrices: Callable, *arrays: Array) -> Array:
    """Multiply matrices on CPUs, where XLA copies and transposes arrays of more axes."""
    if arrays[0].ndim <= 2:
        return general(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=of_matrices, default=general)


def _matrix(x: Float[Array, "*N I"]) -> Float[Array, "M I"]:
    return x.reshape(-1, x.shape[-1])
