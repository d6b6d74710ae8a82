"""GRPO's update: score the sampled completions, compare with advantages and reference, step.

Sampling and rewards happen before, in `loop.py`; here is what runs on the device after them.
"""

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from rrft_jax.models import prompt as prompts
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.qwen2_vl import Qwen2VL
from rrft_jax.parallel import sharding
from rrft_jax.training import objectives
from rrft_jax.training import state as states
from rrft_jax.training.state import TrainState


@flax.struct.dataclass
class GRPOBatch:
    """G completions of B prompts, with everything that their loss needs.

    Attributes:
      prompt: the prompts.
      completions: [B,G,T] tokens.
      mask: [B,G,T] bool, the sampled tokens up to the stop token.
      advantages: [B,G].
      old_log_probs: [B,G,T] of the policy that sampled; None where the batch is used for one
        update alone, and the policy is still the one that sampled.
      reference_log_probs: [B,G,T]; None without a penalty.
    """

    prompt: Prompt
    completions: jax.Array
    mask: jax.Array
    advantages: jax.Array
    old_log_probs: jax.Array | None = None
    reference_log_probs: jax.Array | None = None


def letters(batch: GRPOBatch) -> GRPOBatch:
    """The axis letters of a batch's arrays, None where it has none."""
    return GRPOBatch(
        prompt=prompts.LETTERS,
        completions="BGT",
        mask="BGT",
        advantages="BG",
        old_log_probs=None if batch.old_log_probs is None else "BGT",
        reference_log_probs=None if batch.reference_log_probs is None else "BGT",
    )


def loss(
    model: Qwen2VL,
    config: ml_collections.ConfigDict,
    params: dict,
    batch: GRPOBatch,
    weights: jax.Array,
) -> tuple[jax.Array, dict]:
    """The loss of a (micro-)batch.

    Args:
      model: the model.
      config: `config.grpo`: beta, clip_low, clip_high.
      params: the policy's parameters.
      batch: see `GRPOBatch`.
      weights: [B,G,T] of the tokens in the whole batch's mean, so that micro-batches add up.

    Returns:
      (loss, metrics; both add up over micro-batches).
    """
    log_probs, entropy = model.score_with_entropy(params, batch.prompt, batch.completions)
    old = batch.old_log_probs
    objective, clipped = objectives.clipped_objective(
        log_probs,
        jax.lax.stop_gradient(log_probs) if old is None else old,
        batch.advantages,
        config.clip_low,
        config.clip_high,
    )
    metrics = {
        "entropy": jnp.sum(entropy * weights),
        "clip_fraction": jnp.sum(clipped * weights),
    }
    if batch.reference_log_probs is not None:
        kl = objectives.k3(log_probs, batch.reference_log_probs)
        objective -= config.beta * kl
        metrics["kl"] = jnp.sum(kl * weights)
    return -jnp.sum(objective * weights), metrics


def make_scorer(
    model: Qwen2VL, micro_batches: int
) -> Callable[[dict, Prompt, jax.Array], jax.Array]:
    """A jitted `score` without gradient, a micro-batch at a time: -> log_probs [B,G,T]."""

    def score(params: dict, prompt: Prompt, completions: jax.Array) -> jax.Array:
        parts = sharding.micro_batches(
            (prompt, completions), (prompts.LETTERS, "BGT"), micro_batches
        )
        log_probs = jax.lax.map(lambda part: model.score(params, *part), parts)
        return sharding.join_micro_batches(log_probs)

    return jax.jit(score)


def make_step(
    model: Qwen2VL,
    optimizer: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    layout: TrainState,
) -> Callable[[TrainState, GRPOBatch], tuple[TrainState, dict]]:
    """The jitted update: (state, batch) -> (state, metrics). The state that goes in is consumed.

    `layout` is a tree of shardings like the state (`state.layout`), which the new state keeps.
    """

    def step(state: TrainState, batch: GRPOBatch):
        # The weights of the whole batch travel with it through the split into micro-batches.
        weighted = (batch, objectives.sequence_weights(batch.mask))
        micro = sharding.micro_batches(weighted, (letters(batch), "BGT"), config.micro_batches)
        return states.update(
            state,
            optimizer,
            config.freeze,
            lambda params, part: loss(model, config, params, *part),
            micro,
        )

    return jax.jit(step, donate_argnums=0, out_shardings=(layout, None))
