"""The objective of GRPO, term by term, as pure functions of arrays.

Group Relative Policy Optimization (DeepSeekMath, https://arxiv.org/abs/2402.03300): the advantage
of a completion is its reward relative to those of the other completions of the same prompt, the
policy ratio is clipped as in PPO, and a penalty keeps the policy near a frozen reference.
"""

import jax
import jax.numpy as jnp


def group_advantages(rewards: jax.Array, epsilon: float = 1e-4) -> jax.Array:
    """(reward - mean) / (std + epsilon) over the group, std with ddof 1: [B,G] -> [B,G]."""
    centred = rewards - rewards.mean(axis=-1, keepdims=True)
    return centred / (rewards.std(axis=-1, ddof=1, keepdims=True) + epsilon)


def clipped_objective(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    clip_low: float,
    clip_high: float,
) -> tuple[jax.Array, jax.Array]:
    """PPO's clipped surrogate per token, to be maximised (https://arxiv.org/abs/1707.06347).

    Args:
      log_probs: [B,G,T] of the policy.
      old_log_probs: [B,G,T] of the policy that sampled.
      advantages: [B,G].
      clip_low, clip_high: the ratio counts between 1 - clip_low and 1 + clip_high.

    Returns:
      (objective [B,G,T]; clipped [B,G,T], True where the clipped term was the smaller one).
    """
    ratio = jnp.exp(log_probs - old_log_probs)
    plain = ratio * advantages[..., None]
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantages[..., None]
    return jnp.minimum(plain, clipped), clipped < plain


def k3(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
    """An unbiased, never negative estimate of KL(policy || reference) per token.

    Source: John Schulman, "Approximating KL divergence", 2020. Shapes [B,G,T].
    """
    delta = reference_log_probs - log_probs
    return jnp.exp(delta) - delta - 1


def sequence_weights(mask: jax.Array) -> jax.Array:
    """Weights [B,G,T] that turn a sum into GRPO's mean: over tokens, then over completions."""
    batch, group, _ = mask.shape
    lengths = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    return mask / (lengths * batch * group)
