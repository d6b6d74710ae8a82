"""From logits to a token: temperature, top-k, top-p, or the greedy choice.

All three are traced values: changing them never compiles anything again, and no vocabulary is
sorted where neither top-k nor top-p is on.
"""

import flax
import jax
import jax.numpy as jnp

EXCLUDED = -1e30


@flax.struct.dataclass
class SamplingParams:
    """How a token is drawn. Temperature 0 is greedy; top_k 0 and top_p 1 are off."""

    temperature: jax.Array | float = 1.0
    top_k: jax.Array | int = 0
    top_p: jax.Array | float = 1.0


def sample(keys: jax.Array, logits: jax.Array, params: SamplingParams) -> jax.Array:
    """Draws one token a row.

    Args:
      keys: [...] random keys, one a row: a row's draw doesn't depend on its neighbours.
      logits: [...,V] float32; what must not be drawn holds `EXCLUDED`.
      params: shared by all rows.

    Returns:
      [...] int32.
    """

    def draw(logits):
        scaled = logits / jnp.maximum(params.temperature, 1e-6)
        truncating = (params.top_k > 0) | (params.top_p < 1.0)
        scaled = jax.lax.cond(truncating, lambda x: truncate(x, params), lambda x: x, scaled)
        flat = jax.vmap(jax.random.categorical)(
            keys.reshape(-1), scaled.reshape(-1, logits.shape[-1])
        )
        return flat.reshape(keys.shape)

    def greedy(logits):
        return jnp.argmax(logits, axis=-1)

    return jax.lax.cond(params.temperature > 0, draw, greedy, logits).astype(jnp.int32)


def truncate(logits: jax.Array, params: SamplingParams) -> jax.Array:
    """Excludes all but the top-k tokens, then all but the smallest set of top-p of what is left.

    Tokens as likely as the last one that is kept are kept too.
    """
    vocabulary = logits.shape[-1]
    ordered = -jnp.sort(-logits, axis=-1)
    kept = jnp.where(params.top_k > 0, jnp.minimum(params.top_k, vocabulary), vocabulary)
    ordered = jnp.where(jnp.arange(vocabulary) < kept, ordered, EXCLUDED)
    probabilities = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    nucleus = (before < params.top_p) & (ordered > EXCLUDED)
    nucleus = nucleus.at[..., 0].set(True)
    lowest = jnp.min(jnp.where(nucleus, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= lowest, logits, EXCLUDED)
