"""The loss of GRPO: one number from log-probabilities, advantages and a reference.

`objective` combines the terms of `objectives.py` for each token; `loss` sums over the tokens.
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
      old: those under the policy that sampled, computed by `score`; None if the rollouts are used
        for one update only, when the policy is still the one that sampled.
      reference: those under the policy that the stage began with; None without a penalty.
    """

    old: jax.Array | None = None
    reference: jax.Array | None = None


@flax.struct.dataclass
class Weights:
    """Per-token weights [B,G,T] that sum over the whole batch, so that micro-batches add up."""

    loss: jax.Array
    metrics: jax.Array  # weights for the mean over tokens, then over completions


@flax.struct.dataclass
class Minibatch:
    """The inputs of the loss for some rollouts.

    Attributes:
      rollouts: the rollouts' arrays, see `Rollouts.inputs`.
      scores: the log-probabilities of the same completions.
      advantages: the advantages [B,G].
      weights: the tokens' weights in the whole batch; None before the batch is known.
    """

    rollouts: Rollouts
    scores: Scores
    advantages: jax.Array
    weights: Weights | None = None


def axes(batch: Minibatch) -> Minibatch:
    """Return the logical axes of a batch's arrays; None for an array that is missing."""
    scores, weights = (
        jax.tree.map(lambda _: "BGT", part) for part in (batch.scores, batch.weights)
    )
    return Minibatch(rollout_data.AXES, scores, "BG", weights)


def weigh(config: GRPOSettings, rollouts: Rollouts, max_new_tokens: int | None = None) -> Weights:
    """Return each token's weight in a batch, by `config.aggregation` and `config.mask_truncated`.

    `max_new_tokens` is the longest completion that the sampler allows; None is that of the arrays.

    A completion that was cut off may have been on its way to a right answer. `mask_truncated`
    takes it out of the loss, so that it isn't punished for its length (DAPO's overlong filtering,
    https://arxiv.org/abs/2503.14476).
    """
    mask = rollouts.mask
    counted = mask & rollouts.finished[..., None] if config.mask_truncated else mask
    most = max_new_tokens or mask.shape[-1]
    return Weights(
        loss=objectives.AGGREGATIONS[config.aggregation](counted, most),
        metrics=objectives.sequence_weights(mask, most),
    )


def loss(
    model: VLM,
    config: GRPOSettings,
    params: dict,
    batch: Minibatch,
    moved: jax.Array | bool = True,
) -> tuple[jax.Array, dict]:
    """Return the loss of a (micro-)batch, to be minimised.

    Args:
      model: the model.
      config: the section `config.grpo`, which names each term.
      params: the policy's parameters.
      batch: the rollouts, their scores and advantages, and the weights of their tokens.
      moved: as in `objective`.

    Returns:
      (loss, metrics); both add up over micro-batches.
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
    """Return the objective of each token, to be maximised.

    It is importance weight x surrogate + entropy_bonus x entropy - beta x KL. `config` chooses
    each term.

    `moved` [] bool says whether any update has moved the policy. Until then the policy is the
    reference, and the KL and its gradient are exactly 0. The log-probabilities alone would not
    show this: the reference's come from another program, perhaps from weights in fewer bits, and
    differ by rounding. If the advantages are 0 as well, that rounding would be the whole gradient,
    and Adam would scale it up to a full step.

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
        # Unbiased even if top-k and top-p leave the sampler fewer tokens than the trainer has.
        "mismatch_kl": objectives.k1(rollout_log_probs, old),
    }
    if config.importance_sampling != "none":
        metrics["importance_weight"] = weight
    if config.entropy_bonus:  # prevents early convergence (https://arxiv.org/abs/1602.01783)
        value += config.entropy_bonus * entropy
    if batch.scores.reference is not None:
        kl = objectives.KLS[config.kl](log_probs, batch.scores.reference)
        metrics["kl"] = jnp.where(moved, kl, 0.0)
        if config.kl_in == "loss":  # otherwise it is part of the rewards
            value -= config.beta * objectives.loss_penalty(metrics["kl"], mask)
    return value, metrics


def completion_kl(kind: str, mask: jax.Array, scores: Scores) -> jax.Array:
    """Return the KL [B,G] of each completion to the reference, as a penalty in its reward.

    It is the KL of the policy that sampled, summed over the completion's tokens
    (https://arxiv.org/abs/1909.08593).
    """
    return objectives.reward_penalty(objectives.KLS[kind](scores.old, scores.reference), mask)
