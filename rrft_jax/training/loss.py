"""The loss of GRPO: from log-probabilities, advantages and a reference to one number.

`objective` puts the terms of `objectives.py` together, token by token; `loss` adds them up.
"""

import flax
import jax
import jax.numpy as jnp

from rrft_jax.models.vlm import VLM
from rrft_jax.rollout import rollouts as rollout_data
from rrft_jax.rollout.rollouts import Rollouts
from rrft_jax.settings import GRPOSettings
from rrft_jax.training import objectives


@flax.struct.dataclass
class Scores:
    """Log-probabilities of the completions' tokens, each [B,G,T].

    Attributes:
      old: of the policy that sampled, as `score` has them; None where the rollouts are used for one
        update alone, and the policy is still the one that sampled.
      reference: of the policy that the stage began with; None without a penalty.
    """

    old: jax.Array | None = None
    reference: jax.Array | None = None


@flax.struct.dataclass
class Weights:
    """Per-token weights [B,G,T] that sum over the whole batch, so that micro-batches add up."""

    loss: jax.Array
    metrics: jax.Array  # the mean over tokens, then over completions


@flax.struct.dataclass
class Minibatch:
    """Everything that the loss of some rollouts needs.

    Attributes:
      rollouts: their inputs, see `Rollouts.inputs`.
      scores: of the same completions.
      advantages: [B,G].
      weights: of the tokens in the whole batch; None before the batch is known.
    """

    rollouts: Rollouts
    scores: Scores
    advantages: jax.Array
    weights: Weights | None = None


def axes(batch: Minibatch) -> Minibatch:
    """The axes of a batch's arrays, None where it has none."""
    scores, weights = (
        jax.tree.map(lambda _: "BGT", part) for part in (batch.scores, batch.weights)
    )
    return Minibatch(rollout_data.AXES, scores, "BG", weights)


def weigh(config: GRPOSettings, rollouts: Rollouts) -> Weights:
    """The weight of each token in a batch, by `config.aggregation` and `config.mask_truncated`.

    A completion that was cut off may have been on its way to a right answer. Without loss on it
    (DAPO's overlong filtering, https://arxiv.org/abs/2503.14476) it isn't punished for its length.
    """
    mask = rollouts.mask
    counted = mask & rollouts.finished[..., None] if config.mask_truncated else mask
    return Weights(
        loss=objectives.AGGREGATIONS[config.aggregation](counted),
        metrics=objectives.sequence_weights(mask),
    )


def loss(
    model: VLM,
    config: GRPOSettings,
    params: dict,
    batch: Minibatch,
    moved: jax.Array | bool = True,
) -> tuple[jax.Array, dict]:
    """The loss of a (micro-)batch, to be minimised.

    Args:
      model: the model.
      config: `config.grpo`, which names each term.
      params: the policy's parameters.
      batch: rollouts, their scores and advantages, and the weights of their tokens.
      moved: as `objective` has it.

    Returns:
      (loss, metrics; both add up over micro-batches).
    """
    rollouts = batch.rollouts
    log_probs, entropy = model.score_with_entropy(params, rollouts.prompt, rollouts.tokens)
    value, of_tokens = objective(config, log_probs, entropy, batch, moved)
    metrics = {name: jnp.sum(x * batch.weights.metrics) for name, x in of_tokens.items()}
    return -jnp.sum(value * batch.weights.loss), metrics


def objective(
    config: GRPOSettings,
    log_probs: jax.Array,
    entropy: jax.Array,
    batch: Minibatch,
    moved: jax.Array | bool = True,
) -> tuple[jax.Array, dict]:
    """The objective to maximise, token by token.

    It is importance weight x surrogate + entropy_bonus x entropy - beta x KL, each term as
    `config` names it.

    `moved` [] bool says whether any update has moved the policy. Until then it is the reference,
    and the KL and its gradient are exactly 0. The log-probabilities alone would not say so: the
    reference's come from another program, perhaps from weights in fewer bits, and differ by
    rounding. Where the advantages are 0 as well, that rounding would be the whole gradient, and
    Adam would scale it up to a full step.

    Returns:
      (objective [B,G,T], metrics, each [B,G,T]).
    """
    mask, rollout_log_probs = batch.rollouts.mask, batch.rollouts.rollout_log_probs
    old = batch.scores.old
    if old is None:
        old = jax.lax.stop_gradient(log_probs)
    surrogate, clipped = objectives.RATIOS[config.ratio](
        log_probs,
        old,
        batch.advantages,
        mask,
        objectives.Clip(config.epsilon_low, config.epsilon_high, config.dual_clip),
    )
    weight = objectives.IMPORTANCE_SAMPLING[config.importance_sampling](
        old, rollout_log_probs, mask, config.importance_cap
    )
    value = weight * surrogate
    metrics = {
        "entropy": entropy,
        "clip_fraction": clipped,
        # Unbiased also where top-k and top-p leave the sampler fewer tokens than the trainer has.
        "mismatch_kl": objectives.k1(rollout_log_probs, old),
    }
    if config.importance_sampling != "none":
        metrics["importance_weight"] = weight
    if config.entropy_bonus:  # against settling early (https://arxiv.org/abs/1602.01783)
        value += config.entropy_bonus * entropy
    if batch.scores.reference is not None:
        kl = objectives.KLS[config.kl](log_probs, batch.scores.reference)
        metrics["kl"] = jnp.where(moved, kl, 0.0)
        if config.kl_in == "loss":  # otherwise the advantages have it
            value -= config.beta * metrics["kl"]
    return value, metrics


def completion_kl(kind: str, mask: jax.Array, scores: Scores) -> jax.Array:
    """The KL of each completion to the reference [B,G], as a penalty in its reward.

    Summed over its tokens, by the policy that sampled (https://arxiv.org/abs/1909.08593).
    """
    return objectives.reward_penalty(objectives.KLS[kind](scores.old, scores.reference), mask)
