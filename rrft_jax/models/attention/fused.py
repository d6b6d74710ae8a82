"""cuDNN's fused attention for one part of a softmax, forwards and backwards.

A softmax over several sets of keys is the sum of its parts, each scaled by its normaliser. JAX has
no gradient for such a sum, because it drops the gradient of the normaliser that cuDNN returns. But
cuDNN's backward kernel takes normaliser and result as data. Given those of the whole softmax, it
returns the gradients of the part (ring attention does the same, https://arxiv.org/abs/2310.01889).
JAX offers that kernel as a primitive alone.
"""

import inspect
from typing import Any

import flax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as library
from jax._src.cudnn.fused_attention_stablehlo import MaskType
from jaxtyping import Float, Float32, Int

from rrft_jax.models.arrays import Array

# Newer releases of JAX hand the kernel a function of the scores, which isn't used here.
_NEWER = (
    {"score_mod": None}
    if "score_mod" in inspect.signature(library.dot_product_attention).parameters
    else {}
)


@flax.struct.dataclass
class Keys:
    """Keys and values, and the queries that see them.

    Attributes:
      keys, values: [A,S,K,C], in the queries' dtype.
      lengths: [A] int, a query sees the first so many keys; None shows all. At least 1.
      ids: the ids [A,Q] of the queries and [A,S] of the keys: a query sees the keys of its own id.
        This stores an array of all pairs, and S and Q must be even.
      causal: query i sees no key after key i.
    """

    keys: Array
    values: Array
    lengths: Array | None = None
    ids: tuple[Array, Array] | None = None
    causal: bool = flax.struct.field(pytree_node=False, default=False)

    @property
    def mask_type(self) -> MaskType:
        """The keys that cuDNN leaves out by itself."""
        if self.lengths is None:
            return MaskType.CAUSAL if self.causal else MaskType.NO_MASK
        return MaskType.PADDING_CAUSAL if self.causal else MaskType.PADDING

    def bias(self, dtype: Any) -> Float[Array, "A one=1 Q S"] | None:
        """The addends of the scores: a large negative number where a query doesn't see a key."""
        if self.ids is None:
            return None
        of_queries, of_keys = self.ids
        seen = of_queries[:, None, :, None] == of_keys[:, None, None, :]
        return library.combine_bias_and_mask(None, seen, jnp.dtype(dtype))


def forward(
    keys: Keys, q: Float[Array, "A Q H C"]
) -> tuple[Float[Array, "A Q H C"], Float32[Array, "A Q H"]]:
    """Return the average of the values, and the logarithm of the sum of exponentiated scores."""
    q_lengths, lengths = _lengths(q, keys)
    attended, normaliser = library.dot_product_attention(
        q,
        keys.keys,
        keys.values,
        bias=keys.bias(q.dtype),
        q_seqlen=q_lengths,
        kv_seqlen=lengths,
        scale=q.shape[-1] ** -0.5,
        mask_type=keys.mask_type,
        return_residual=True,
    )
    return attended, jnp.swapaxes(normaliser, 1, 2)


def backward(
    keys: Keys,
    q: Float[Array, "A Q H C"],
    attended: Float[Array, "A Q H C"],
    normaliser: Float32[Array, "A Q H"],
    gradient: Float[Array, "A Q H C"],
) -> tuple[Float[Array, "A Q H C"], Float[Array, "A S K C"], Float[Array, "A S K C"]]:
    """Return the gradients of queries, keys and values by this part of a softmax.

    Args:
      keys, q: as in `forward`.
      attended: the result of the whole softmax.
      normaliser: the normaliser of the whole softmax.
      gradient: the gradient of `attended`.
    """
    none, bias = jnp.zeros(0, q.dtype), keys.bias(q.dtype)
    q_lengths, lengths = _lengths(q, keys)
    if lengths is None:
        q_lengths = lengths = none
    return tuple(
        library._dot_product_attention_bwd_p_wrapper.bind(
            q,
            keys.keys,
            keys.values,
            none if bias is None else bias,
            q_lengths,
            lengths,
            *4 * [none],  # offsets and pages
            jnp.swapaxes(normaliser, 1, 2),
            attended,
            gradient,
            scale=q.shape[-1] ** -0.5,
            seed=0,
            dropout_rate=0.0,
            variadic_args=(bias is not None, False),  # no gradient of the bias
            mask_type=keys.mask_type,
            layout=library.AttentionLayout.BTNH.value,
            sliding_window_length=None,
            **_NEWER,
        )
    )


def _lengths(
    q: Float[Array, "A Q H C"], keys: Keys
) -> tuple[Int[Array, " A"], Int[Array, " A"]] | tuple[None, None]:
    """Return the numbers of queries, which is all of them, and of keys."""
    if keys.lengths is None:
        return None, None
    return jnp.full(q.shape[0], q.shape[1], jnp.int32), keys.lengths.astype(jnp.int32)
