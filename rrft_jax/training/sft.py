"""Supervised fine-tuning: cross-entropy on the target's tokens, which is `score` with G = 1."""

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax

from rrft_jax.models import prompt as prompts
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM
from rrft_jax.parallel import sharding
from rrft_jax.training import state as states
from rrft_jax.training.state import TrainState


@flax.struct.dataclass
class SFTBatch:
    """Prompts and what should follow them.

    `completions` [B,G,T] are the target's tokens, end of turn included; G is 1, unless several
    texts share one prompt. `mask` [B,G,T] says which of them carry loss.
    """

    prompt: Prompt
    completions: jax.Array
    mask: jax.Array


AXES = SFTBatch(prompt=prompts.AXES, completions="BGT", mask="BGT")


def loss(model: VLM, params: dict, batch: SFTBatch, tokens: jax.Array):
    """Negative log-likelihood, summed over a (micro-)batch and divided by `tokens`.

    Returns:
      (loss, metrics that add up over micro-batches).
    """
    log_probs, entropy = model.score_with_entropy(params, batch.prompt, batch.completions)
    weights = batch.mask / tokens
    return -jnp.sum(log_probs * weights), {"entropy": jnp.sum(entropy * weights)}


def make_step(
    model: VLM,
    optimizer: optax.GradientTransformation,
    freeze: str,
    micro_batches: int,
    layout: TrainState,
) -> Callable[[TrainState, SFTBatch], tuple[TrainState, dict]]:
    """The jitted step: (state, batch) -> (state, metrics). The state that goes in is consumed.

    `micro_batches` 0: as many as leave a device one row at a time. `layout` is a tree of shardings
    like the state (`state.layout`), which the new state keeps.
    """

    def step(state: TrainState, batch: SFTBatch):
        tokens = jnp.maximum(jnp.sum(batch.mask), 1)
        number = micro_batches or sharding.one_row_each(model.mesh, len(batch.mask))
        new, metrics = states.update(
            state,
            optimizer,
            freeze,
            lambda params, micro: loss(model, params, micro, tokens),
            sharding.micro_batches(batch, AXES, number),
        )
        return new, {**metrics, "target_tokens": tokens}

    return jax.jit(step, donate_argnums=0, out_shardings=(layout, None))
