"""The keys and values that queries attend to."""

from typing import NamedTuple

from jaxtyping import Float

from rrft_jax.models.arrays import Array


class KeyValues(NamedTuple):
    """Keys and values of one layer, or of all layers of a tower.

    Their layout depends on their reader. `causal` and `group` read prompts [B,P,K,C] and
    completions [B,G,T,K,C], and a prefill returns [L,B,P,K,C]. Decoding reads keys with their
    tokens last and values with their features last: prompts [B,K,C,P] and [B,K,P,C], the sequences'
    own [R,K,C,T] and [R,K,T,C].
    """

    keys: Float[Array, "..."]
    values: Float[Array, "..."]

    @property
    def length(self) -> int:
        """The number of tokens with room in a cache that decoding reads."""
        return self.values.shape[2]
