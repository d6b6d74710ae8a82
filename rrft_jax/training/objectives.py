"""The objective of GRPO and of its relatives, term by term, as pure functions of arrays.

Group Relative Policy Optimization (DeepSeekMath, https://arxiv.org/abs/2402.03300): the advantage
of a completion is its reward relative to the rewards of the other completions of the same prompt,
the policy ratio is clipped as in PPO, and a penalty keeps the policy near a frozen reference. Each
change that a later paper made is a choice in one of the terms:

    reward -> ADVANTAGES -> RATIOS -> IMPORTANCE_SAMPLING -> KLS, KL_PLACES -> AGGREGATIONS

Every choice is registered where it is computed. The check of a config and `docs/algorithms.md` read
`TERMS`. `loss.py: objective` puts the terms together. Axes: B prompts, G completions a prompt,
T tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rrft_jax.errors import UserError
from rrft_jax.settings import GRPOSettings

EPSILON = 1e-4  # added to a standard deviation before the division
ROUNDING = 1e-6  # rewards of a group are equal if they differ by less than this share of their size
# Bounds of exponents and of k3, with verl's values in `core_algos.py`
# (https://arxiv.org/abs/2409.19256). exp(89) is already infinite in float32. Beyond a bound a token
# has no gradient.
MAX_LOG_RATIO = 20.0
MAX_K3 = 10.0


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to compute a term. A call calls its function."""

    function: Callable
    origin: str  # the method that is known for it
    paper: str  # URL

    @property
    def description(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").partition("\n")[0].rstrip(".")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def _register(term: dict[str, Choice], name: str, origin: str, paper: str) -> Callable:
    """Return a decorator that adds a function to the choices of a term."""

    def register(function: Callable) -> Callable:
        term[name] = Choice(function, origin, paper)
        return function

    return register


# Advantages: rewards [B,G] -> [B,G]. They take arrays of NumPy as well as of JAX.

ADVANTAGES: dict[str, Choice] = {}


def is_flat(rewards: jax.Array) -> jax.Array:
    """Return True [B] for the groups whose rewards [B,G] are equal up to float32's rounding.

    There is nothing to learn from such a group. Sums of the same terms in another order differ by
    rounding. A division by a standard deviation that is only rounding too would turn these
    differences into advantages.
    """
    size = abs(rewards).max(axis=-1)
    return rewards.max(axis=-1) - rewards.min(axis=-1) <= ROUNDING * (1 + size)


@_register(ADVANTAGES, "group_std", "GRPO", "https://arxiv.org/abs/2402.03300")
def group_std_advantages(rewards: jax.Array) -> jax.Array:
    """Reward minus the group's mean, divided by the group's standard deviation (ddof 1)."""
    return group_advantages(rewards) / (rewards.std(axis=-1, ddof=1, keepdims=True) + EPSILON)


@_register(ADVANTAGES, "group", "Dr. GRPO", "https://arxiv.org/abs/2503.20783")
def group_advantages(rewards: jax.Array) -> jax.Array:
    """Reward minus the group's mean.

    Groups that are nearly all right or all wrong weigh no more than others. Exactly 0 in a flat
    group.
    """
    return (rewards - rewards.mean(axis=-1, keepdims=True)) * ~is_flat(rewards)[..., None]


@_register(ADVANTAGES, "batch_std", "Lite PPO", "https://arxiv.org/abs/2508.08221")
def batch_std_advantages(rewards: jax.Array) -> jax.Array:
    """Reward minus the group's mean, divided by the whole batch's standard deviation (ddof 1)."""
    return group_advantages(rewards) / (rewards.std(ddof=1) + EPSILON)


@_register(ADVANTAGES, "rloo", "RLOO", "https://arxiv.org/abs/2402.14740")
def rloo_advantages(rewards: jax.Array) -> jax.Array:
    """Reward minus the mean of the group's other rewards."""
    group = rewards.shape[-1]
    return group_advantages(rewards) * (group / (group - 1))


# Ratios: (log_probs [B,G,T] of the policy, old_log_probs [B,G,T] of the policy before the batch's
# first update, advantages [B,G], mask [B,G,T] of the completions' tokens, Clip) -> the surrogate
# [B,G,T], which is maximised, and True [B,G,T] where the clip decided.

RATIOS: dict[str, Choice] = {}


@dataclasses.dataclass(frozen=True)
class Clip:
    """Bounds of the policy ratio.

    A `high` above `low` is DAPO's clip-higher (https://arxiv.org/abs/2503.14476).
    """

    low: float  # the lower bound is 1 - low
    high: float  # the upper bound is 1 + high
    # Upper bound of the ratio if the advantage is negative (https://arxiv.org/abs/1912.09729);
    # 0 is no bound.
    dual: float = 0.0

    def __call__(self, ratio: jax.Array) -> jax.Array:
        """Return the ratio within the bounds of `low` and `high`."""
        return jnp.clip(ratio, 1 - self.low, 1 + self.high)


@_register(RATIOS, "token", "PPO", "https://arxiv.org/abs/1707.06347")
def token_surrogate(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    clip: Clip,
) -> tuple[jax.Array, jax.Array]:
    """The clipped ratio of each token."""
    return _clipped(_log_ratio(log_probs, old_log_probs), advantages, clip)


@_register(RATIOS, "sequence", "GSPO", "https://arxiv.org/abs/2507.18071")
def sequence_surrogate(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    clip: Clip,
) -> tuple[jax.Array, jax.Array]:
    """The clipped geometric mean of the ratios of a completion's tokens."""
    log_ratio = _log_ratio(log_probs, old_log_probs)
    lengths = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    mean = jnp.sum(log_ratio * mask, axis=-1, keepdims=True) / lengths
    return _clipped(jnp.broadcast_to(mean, log_ratio.shape), advantages, clip)


@_register(RATIOS, "cispo", "CISPO of MiniMax-M1", "https://arxiv.org/abs/2506.13585")
def cispo_surrogate(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    clip: Clip,
) -> tuple[jax.Array, jax.Array]:
    """REINFORCE with the clipped ratio as a constant weight: no token loses its gradient."""
    ratio = jnp.exp(_log_ratio(log_probs, old_log_probs))
    bounded = clip(ratio)
    return jax.lax.stop_gradient(bounded) * advantages[..., None] * log_probs, bounded != ratio


def _clipped(
    log_ratio: jax.Array, advantages: jax.Array, clip: Clip
) -> tuple[jax.Array, jax.Array]:
    """Return the smaller of plain and clipped surrogate, and True where the clip decided."""
    advantages = advantages[..., None]
    ratio = jnp.exp(log_ratio)
    plain, clipped = ratio * advantages, clip(ratio) * advantages
    value, decided = jnp.minimum(plain, clipped), clipped < plain
    if clip.dual:
        floor = jnp.where(advantages < 0, clip.dual * advantages, -jnp.inf)
        value, decided = jnp.maximum(value, floor), decided | (value < floor)
    return value, decided


def _log_ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.clip(a - b, -MAX_LOG_RATIO, MAX_LOG_RATIO)


# Importance sampling: (old_log_probs [B,G,T] as the trainer computes them before the batch's first
# update, rollout_log_probs [B,G,T] of the distribution that the tokens were drawn from, mask
# [B,G,T], cap) -> the weight of each token [B,G,T], at most `cap`, without a gradient. The weights
# correct for the sampler's own arithmetic, temperature and truncation. Truncated importance
# sampling: Ionides 2008; for samplers beside trainers Yao et al. 2025, "Your efficient RL framework
# secretly brings you off-policy RL training".

IMPORTANCE_SAMPLING: dict[str, Choice] = {}


@_register(IMPORTANCE_SAMPLING, "none", "GRPO", "https://arxiv.org/abs/2402.03300")
def no_importance_weights(
    old_log_probs: jax.Array, rollout_log_probs: jax.Array, mask: jax.Array, cap: float
) -> jax.Array:
    """A weight of 1."""
    return jnp.ones_like(_off_policy(old_log_probs, rollout_log_probs, mask))


@_register(IMPORTANCE_SAMPLING, "token", "V-trace", "https://arxiv.org/abs/1802.01561")
def token_importance_weights(
    old_log_probs: jax.Array, rollout_log_probs: jax.Array, mask: jax.Array, cap: float
) -> jax.Array:
    """A truncated weight for each token."""
    return _truncated(_off_policy(old_log_probs, rollout_log_probs, mask), cap)


@_register(
    IMPORTANCE_SAMPLING, "sequence", "Ionides 2008", "https://doi.org/10.1198/106186008X320456"
)
def sequence_importance_weights(
    old_log_probs: jax.Array, rollout_log_probs: jax.Array, mask: jax.Array, cap: float
) -> jax.Array:
    """A truncated weight for each completion, the product over its tokens."""
    delta = _off_policy(old_log_probs, rollout_log_probs, mask)
    return _truncated(jnp.broadcast_to(delta.sum(-1, keepdims=True), delta.shape), cap)


def _off_policy(old: jax.Array, rollout: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, old - rollout, 0.0)


def _truncated(delta: jax.Array, cap: float) -> jax.Array:
    return jax.lax.stop_gradient(jnp.exp(jnp.minimum(delta, jnp.log(cap))))


# KL(policy || reference) of a token [B,G,T], estimated from the drawn token alone:
# (log_probs [B,G,T], reference_log_probs [B,G,T]) -> [B,G,T].

KLS: dict[str, Choice] = {}
_SCHULMAN = "http://joschu.net/blog/kl-approx.html"


@_register(KLS, "k1", "Schulman 2020", _SCHULMAN)
def k1(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
    """Unbiased, and negative as often as not: the usual one in the reward.

    In the loss its gradient is 0 in the mean.
    """
    return log_probs - reference_log_probs


@_register(KLS, "k2", "Schulman 2020", _SCHULMAN)
def k2(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
    """Biased and never negative: in the loss its gradient is that of the KL itself."""
    return jnp.square(log_probs - reference_log_probs) / 2


@_register(KLS, "k3", "GRPO", "https://arxiv.org/abs/2402.03300")
def k3(log_probs: jax.Array, reference_log_probs: jax.Array) -> jax.Array:
    """Unbiased and never negative.

    At most `MAX_K3`, without a gradient from there on.
    """
    delta = _log_ratio(reference_log_probs, log_probs)
    return jnp.minimum(jnp.exp(delta) - delta - 1, MAX_K3)


# Places of the KL penalty: (kl [B,G,T] of each token, mask [B,G,T]) -> the penalty, before `beta`.

KL_PLACES: dict[str, Choice] = {}


@_register(KL_PLACES, "loss", "GRPO", "https://arxiv.org/abs/2402.03300")
def loss_penalty(kl: jax.Array, mask: jax.Array) -> jax.Array:
    """Each token's KL is subtracted from its surrogate."""
    return kl


@_register(KL_PLACES, "reward", "Ziegler et al. 2019", "https://arxiv.org/abs/1909.08593")
def reward_penalty(kl: jax.Array, mask: jax.Array) -> jax.Array:
    """The sampling policy's KL, summed over a completion, is subtracted from its reward."""
    return jnp.sum(kl * mask, axis=-1)


# Aggregations: mask [B,G,T] of the tokens that count -> weights [B,G,T]. The weighted sum over the
# whole batch is its loss, so micro-batches add up exactly.

AGGREGATIONS: dict[str, Choice] = {}


@_register(AGGREGATIONS, "sequence", "GRPO", "https://arxiv.org/abs/2402.03300")
def sequence_weights(mask: jax.Array, max_new_tokens: int) -> jax.Array:
    """The mean over a completion's tokens, then over completions."""
    batch, group, _ = mask.shape
    lengths = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    return mask / (lengths * batch * group)


@_register(AGGREGATIONS, "token", "DAPO", "https://arxiv.org/abs/2503.14476")
def token_weights(mask: jax.Array, max_new_tokens: int) -> jax.Array:
    """The mean over all tokens of the batch, elsewhere called BNPO.

    The tokens of long completions count as much as others.
    """
    return mask / jnp.maximum(mask.sum(), 1)


@_register(AGGREGATIONS, "constant", "Dr. GRPO", "https://arxiv.org/abs/2503.20783")
def constant_weights(mask: jax.Array, max_new_tokens: int) -> jax.Array:
    """The sum over tokens, divided by B x G x `sampling.max_new_tokens`."""
    batch, group, _ = mask.shape
    return mask / (batch * group * max_new_tokens)


# Field of the config's section `grpo` -> its choices by name.
TERMS = {
    "advantages": ADVANTAGES,
    "ratio": RATIOS,
    "aggregation": AGGREGATIONS,
    "kl": KLS,
    "kl_in": KL_PLACES,
    "importance_sampling": IMPORTANCE_SAMPLING,
}


def check(settings: GRPOSettings | None) -> None:
    """Raise UserError unless every term of the section `grpo`, if there is one, is registered."""
    for field, choices in TERMS.items() if settings else ():
        name = getattr(settings, field)
        if name not in choices:
            raise UserError(f"--config.grpo.{field}={name}: expected one of {', '.join(choices)}")
