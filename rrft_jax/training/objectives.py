"""The objective of GRPO and of its relatives, term by term, as pure functions of arrays.

Group Relative Policy Optimization (DeepSeekMath, https://arxiv.org/abs/2402.03300): the advantage
of a completion is its reward relative to those of the other completions of the same prompt, the
policy ratio is clipped as in PPO, and a penalty keeps the policy near a frozen reference. What
later papers changed about it is a choice in one of the terms:

    reward -> ADVANTAGES -> surrogate, of one of the RATIOS -> correction -> penalty -> AGGREGATIONS

`grpo.py: objective` puts them together. Axes: B prompts, G completions a prompt, T tokens.
"""

import jax
import jax.numpy as jnp

EPSILON = 1e-4  # what a standard deviation of 0 is divided by
ROUNDING = 1e-6  # rewards of a group that differ by less than this share of their size are equal
# Bounds of what goes through an exponential, and of k3, as verl has them in `core_algos.py`
# (https://arxiv.org/abs/2409.19256). exp(89) is already infinite in float32. Beyond a bound a token
# has no gradient.
MAX_LOG_RATIO = 20.0
MAX_K3 = 10.0


# Advantages: rewards [B,G] -> [B,G]. They work on NumPy's arrays as well as on JAX's.


def is_flat(rewards: jax.Array) -> jax.Array:
    """Groups [B] whose rewards [B,G] are equal up to float32's rounding: nothing to learn from.

    Sums of the same terms in another order differ by rounding. Divided by a standard deviation
    that is rounding too, they would make advantages out of nothing.
    """
    size = abs(rewards).max(axis=-1)
    return rewards.max(axis=-1) - rewards.min(axis=-1) <= ROUNDING * (1 + size)


def group_std_advantages(rewards: jax.Array) -> jax.Array:
    """GRPO: (reward - mean) / (std + epsilon) over the group, std with ddof 1."""
    return group_advantages(rewards) / (rewards.std(axis=-1, ddof=1, keepdims=True) + EPSILON)


def group_advantages(rewards: jax.Array) -> jax.Array:
    """Dr. GRPO (https://arxiv.org/abs/2503.20783): reward - mean, so that groups that are nearly
    all right or all wrong weigh no more than others. Exactly 0 in a flat group."""
    return (rewards - rewards.mean(axis=-1, keepdims=True)) * ~is_flat(rewards)[..., None]


def batch_std_advantages(rewards: jax.Array) -> jax.Array:
    """Lite PPO (https://arxiv.org/abs/2508.08221): mean of the group, std of the whole batch."""
    return group_advantages(rewards) / (rewards.std(ddof=1) + EPSILON)


def rloo_advantages(rewards: jax.Array) -> jax.Array:
    """RLOO (https://arxiv.org/abs/2402.14740): reward - mean of the group's *other* rewards."""
    group = rewards.shape[-1]
    return group_advantages(rewards) * (group / (group - 1))


ADVANTAGES = {
    "group_std": group_std_advantages,
    "group": group_advantages,
    "batch_std": batch_std_advantages,
    "rloo": rloo_advantages,
}


# The surrogate: what is maximised where there's nothing but the advantages.

RATIOS = ("token", "sequence", "cispo")


def surrogate(
    kind: str,
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    epsilon_low: float,
    epsilon_high: float,
    dual_clip: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """The surrogate of each token, to be maximised.

    Args:
      kind: "token": PPO's clipped ratio (https://arxiv.org/abs/1707.06347). "sequence": GSPO's
        (https://arxiv.org/abs/2507.18071), the geometric mean over a completion's tokens. "cispo":
        MiniMax-M1's (https://arxiv.org/abs/2506.13585), the clipped ratio as a constant weight of
        REINFORCE, so that no token ever loses its gradient.
      log_probs: [B,G,T] of the policy.
      old_log_probs: [B,G,T] of the policy before the batch's first update.
      advantages: [B,G].
      mask: [B,G,T] bool, the completions' tokens.
      epsilon_low, epsilon_high: the ratio counts from 1 - epsilon_low to 1 + epsilon_high. A higher
        epsilon_high is DAPO's clip-higher (https://arxiv.org/abs/2503.14476).
      dual_clip: where the advantage is negative, the ratio counts up to here at most
        (https://arxiv.org/abs/1912.09729); 0: without end.

    Returns:
      (surrogate [B,G,T]; clipped [B,G,T], True where the clip decided).
    """
    log_ratio, advantages = _log_ratio(log_probs, old_log_probs), advantages[..., None]
    if kind == "sequence":
        lengths = jnp.maximum(mask.sum(-1, keepdims=True), 1)
        mean = jnp.sum(log_ratio * mask, axis=-1, keepdims=True) / lengths
        log_ratio = jnp.broadcast_to(mean, log_ratio.shape)
    ratio = jnp.exp(log_ratio)
    bounded = jnp.clip(ratio, 1 - epsilon_low, 1 + epsilon_high)
    if kind == "cispo":
        return jax.lax.stop_gradient(bounded) * advantages * log_probs, bounded != ratio
    plain, clipped = ratio * advantages, bounded * advantages
    value, decided = jnp.minimum(plain, clipped), clipped < plain
    if dual_clip:
        floor = jnp.where(advantages < 0, dual_clip * advantages, -jnp.inf)
        value, decided = jnp.maximum(value, floor), decided | (value < floor)
    return value, decided


def _log_ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.clip(a - b, -MAX_LOG_RATIO, MAX_LOG_RATIO)


# Between the sampler, whose arithmetic, temperature and truncation are its own, and the trainer.

IMPORTANCE_SAMPLING = ("none", "token", "sequence")


def importance_weights(
    kind: str, old_log_probs: jax.Array, rollout_log_probs: jax.Array, mask: jax.Array, cap: float
) -> jax.Array:
    """The weight of a sample that another distribution drew, at most `cap`; no gradient.

    Truncated importance sampling (Ionides 2008; V-trace, https://arxiv.org/abs/1802.01561; for
    samplers beside trainers: Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training").

    Args:
      kind: "token": a weight a token. "sequence": one a completion, the product over its tokens.
        "none": 1.
      old_log_probs: [B,G,T] as the trainer computes them, before the batch's first update.
      rollout_log_probs: [B,G,T] of the distribution that was drawn from.
      mask: [B,G,T] bool, the completions' tokens.
      cap: the largest weight.

    Returns:
      [B,G,T].
    """
    delta = jnp.where(mask, old_log_probs - rollout_log_probs, 0.0)
    if kind == "none":
        return jnp.ones_like(delta)
    if kind == "sequence":
        delta = jnp.broadcast_to(delta.sum(-1, keepdims=True), delta.shape)
    return jax.lax.stop_gradient(jnp.exp(jnp.minimum(delta, jnp.log(cap))))


# KL(policy || reference) of a token [B,G,T], estimated from the one token that was drawn.
# Source: John Schulman, "Approximating KL divergence", 2020, http://joschu.net/blog/kl-approx.html.


def k1(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
    """Unbiased, and negative as often as not. In the reward it's the usual one; in the loss its
    gradient is 0 in the mean."""
    return log_probs - reference_log_probs


def k2(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
    """Biased, never negative; in the loss its gradient is that of the KL itself."""
    return jnp.square(log_probs - reference_log_probs) / 2


def k3(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
    """Unbiased and never negative: GRPO's. At most `MAX_K3`, without a gradient from there on."""
    delta = _log_ratio(reference_log_probs, log_probs)
    return jnp.minimum(jnp.exp(delta) - delta - 1, MAX_K3)


KLS = {"k1": k1, "k2": k2, "k3": k3}
KL_PLACES = ("loss", "reward")


# Aggregations: mask [B,G,T] of the tokens that count, number of completions -> weights [B,G,T],
# which turn the sum over a whole batch into its loss. So micro-batches add up exactly.


def sequence_weights(mask: jax.Array) -> jax.Array:
    """GRPO: the mean over a completion's tokens, then over completions."""
    batch, group, _ = mask.shape
    lengths = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    return mask / (lengths * batch * group)


def token_weights(mask: jax.Array) -> jax.Array:
    """DAPO (https://arxiv.org/abs/2503.14476), elsewhere called BNPO: the mean over all tokens of
    the batch, so that those of long completions count as much as others."""
    return mask / jnp.maximum(mask.sum(), 1)


def constant_weights(mask: jax.Array) -> jax.Array:
    """Dr. GRPO (https://arxiv.org/abs/2503.20783): the sum over tokens, by B x G x longest."""
    return mask / mask.size


AGGREGATIONS = {
    "sequence": sequence_weights,
    "token": token_weights,
    "constant": constant_weights,
}
