"""GRPO's update: score the sampled completions, compare with advantages and reference, step.

Sampling and rewards happen before, in `rollouts.py`; here is what runs on the device after them.
"""

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax

from rrft_jax.models import prompt as prompts
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM
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
      finished: [B,G] bool, False where a completion was cut off at T tokens.
      advantages: [B,G].
      rollout_log_probs: [B,G,T] of the distribution that the tokens were drawn from.
      old_log_probs: [B,G,T] of the policy that sampled, as `score` has them; None where the batch
        is used for one update alone, and the policy is still the one that sampled.
      reference_log_probs: [B,G,T] of the policy that the stage began with; None without a penalty.
    """

    prompt: Prompt
    completions: jax.Array
    mask: jax.Array
    finished: jax.Array
    advantages: jax.Array
    rollout_log_probs: jax.Array
    old_log_probs: jax.Array | None = None
    reference_log_probs: jax.Array | None = None


def letters(batch: GRPOBatch) -> GRPOBatch:
    """The axis letters of a batch's arrays, None where it has none."""
    return GRPOBatch(
        prompt=prompts.AXES,
        completions="BGT",
        mask="BGT",
        finished="BG",
        advantages="BG",
        rollout_log_probs="BGT",
        old_log_probs=None if batch.old_log_probs is None else "BGT",
        reference_log_probs=None if batch.reference_log_probs is None else "BGT",
    )


@flax.struct.dataclass
class Weights:
    """Of the tokens [B,G,T] in sums over a whole batch, so that micro-batches add up."""

    loss: jax.Array
    metrics: jax.Array  # the mean over tokens, then over completions


WEIGHT_LETTERS = Weights(loss="BGT", metrics="BGT")


def weights(config: ml_collections.ConfigDict, batch: GRPOBatch) -> Weights:
    """What each token of a batch weighs, by `config.aggregation` and `config.mask_truncated`.

    A completion that was cut off may have been on its way to a right answer. Without loss on it
    (DAPO's overlong filtering, https://arxiv.org/abs/2503.14476) it isn't punished for its length.
    """
    counted = batch.mask & batch.finished[..., None] if config.mask_truncated else batch.mask
    return Weights(
        loss=objectives.AGGREGATIONS[config.aggregation](counted),
        metrics=objectives.sequence_weights(batch.mask),
    )


def loss(
    model: VLM,
    config: ml_collections.ConfigDict,
    params: dict,
    batch: GRPOBatch,
    weights: Weights,
    moved: jax.Array | bool = True,
) -> tuple[jax.Array, dict]:
    """The loss of a (micro-)batch, to be minimised.

    Args:
      model: the model.
      config: `config.grpo`, which names each term.
      params: the policy's parameters.
      batch: see `GRPOBatch`.
      weights: of its tokens in the whole batch.
      moved: as `objective` has it.

    Returns:
      (loss, metrics; both add up over micro-batches).
    """
    log_probs, entropy = model.score_with_entropy(params, batch.prompt, batch.completions)
    value, of_tokens = objective(config, log_probs, entropy, batch, moved)
    metrics = {name: jnp.sum(x * weights.metrics) for name, x in of_tokens.items()}
    return -jnp.sum(value * weights.loss), metrics


def objective(
    config: ml_collections.ConfigDict,
    log_probs: jax.Array,
    entropy: jax.Array,
    batch: GRPOBatch,
    moved: jax.Array | bool = True,
) -> tuple[jax.Array, dict]:
    """What is maximised, token by token: (objective [B,G,T], metrics, each [B,G,T]).

    importance weight x surrogate + entropy_bonus x entropy - beta x KL, each as `config` names it.

    `moved` [] bool says whether any update has moved the policy. Until then it is the reference,
    and the KL and its gradient are exactly 0. The log-probabilities alone would not say so: the
    reference's come from another program, perhaps from weights in fewer bits, and differ by
    rounding. Where the advantages are 0 as well, that rounding would be the whole gradient, and
    Adam would scale it up to a full step.
    """
    old = batch.old_log_probs
    if old is None:
        old = jax.lax.stop_gradient(log_probs)
    surrogate, clipped = objectives.RATIOS[config.ratio](
        log_probs,
        old,
        batch.advantages,
        batch.mask,
        objectives.Clip(config.epsilon_low, config.epsilon_high, config.dual_clip),
    )
    weight = objectives.IMPORTANCE_SAMPLING[config.importance_sampling](
        old, batch.rollout_log_probs, batch.mask, config.importance_cap
    )
    value = weight * surrogate
    metrics = {
        "entropy": entropy,
        "clip_fraction": clipped,
        # Unbiased also where top-k and top-p leave the sampler fewer tokens than the trainer has.
        "mismatch_kl": objectives.k1(batch.rollout_log_probs, old),
    }
    if config.importance_sampling != "none":
        metrics["importance_weight"] = weight
    if config.entropy_bonus:  # against settling early (https://arxiv.org/abs/1602.01783)
        value += config.entropy_bonus * entropy
    if batch.reference_log_probs is not None:
        kl = objectives.KLS[config.kl](log_probs, batch.reference_log_probs)
        metrics["kl"] = jnp.where(moved, kl, 0.0)
        if config.kl_in == "loss":  # otherwise the advantages have it
            value -= config.beta * metrics["kl"]
    return value, metrics


def completion_kl(kind: str, batch: GRPOBatch) -> jax.Array:
    """The KL of each completion to the reference [B,G], as a penalty in its reward.

    Summed over its tokens, by the policy that sampled (https://arxiv.org/abs/1909.08593).
    """
    kl = objectives.KLS[kind](batch.old_log_probs, batch.reference_log_probs)
    return objectives.reward_penalty(kl, batch.mask)


def make_scorer(model: VLM, micro_batches: int) -> Callable[[dict, Prompt, jax.Array], jax.Array]:
    """A jitted `score` without gradient, a micro-batch at a time: -> log_probs [B,G,T].

    `micro_batches` 0: as many as leave a device one prompt at a time.
    """

    def score(params: dict, prompt: Prompt, completions: jax.Array) -> jax.Array:
        number = micro_batches or sharding.one_row_each(model.mesh, len(completions))
        parts = sharding.micro_batches((prompt, completions), (prompts.AXES, "BGT"), number)
        log_probs = jax.lax.map(lambda part: model.score(params, *part), parts)
        return sharding.join_micro_batches(log_probs)

    return jax.jit(score)


def make_step(
    model: VLM,
    optimizer: optax.GradientTransformation,
    config: ml_collections.ConfigDict,
    layout: TrainState,
) -> Callable[[TrainState, GRPOBatch], tuple[TrainState, dict]]:
    """The jitted update: (state, batch, part) -> (state, metrics), which consumes the state.

    It updates on one of the batch's `config.mini_batches` parts, as if that were all: row i belongs
    to part i % mini_batches. `layout` is a tree of shardings like the state (`state.layout`), which
    the new state keeps. A state that has not moved yet must hold the weights of the reference.
    """

    def step(state: TrainState, batch: GRPOBatch, part: jax.Array | int = 0):
        parts = sharding.micro_batches(batch, letters(batch), config.mini_batches)
        batch = jax.tree.map(lambda x: x[part], parts)
        # The weights of the whole batch travel with it through the split into micro-batches.
        weighted = (batch, weights(config, batch))
        number = config.micro_batches or sharding.one_row_each(model.mesh, len(batch.mask))
        micro = sharding.micro_batches(weighted, (letters(batch), WEIGHT_LETTERS), number)
        return states.update(
            state,
            optimizer,
            config.freeze,
            lambda params, part: loss(model, config, params, *part, state.moved),
            micro,
        )

    return jax.jit(step, donate_argnums=0, out_shardings=(layout, None))
