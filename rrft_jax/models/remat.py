"""Rematerialisation by name: the results that a layer keeps for its backward pass."""

from typing import TypeVar

import jax
from flax import linen as nn

from rrft_jax.errors import UserError
from rrft_jax.models.layers import ATTENTION, PRODUCT

POLICIES = {
    "none": None,  # keep everything
    "full": jax.checkpoint_policies.nothing_saveable,  # keep the layer's input alone
    # Keep what is dear: products with weights, and what attention's own backward pass reads.
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT, ATTENTION),
}
Layer = TypeVar("Layer", bound=type[nn.Module])


def rematerialised(layer: Layer, policy: str) -> Layer:
    """Return the layer class with the named policy.

    Raises:
      UserError: no policy has that name.
    """
    if policy not in POLICIES:
        raise UserError(f"model.remat: {policy!r} is not one of {', '.join(POLICIES)}")
    if policy == "none":
        return layer
    # Inside a scan the loop itself keeps XLA from merging the forward pass with its repetition.
    return nn.remat(layer, policy=POLICIES[policy], prevent_cse=False)
