"""AdamW with warm-up and decay, from optax, as the public scripts of Reason-RFT set it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rrft_jax.settings import StageSettings

DECAYED = ("kernel", "embedding")  # biases and norms are never pulled towards zero


def learning_rate(config: StageSettings, steps: int) -> optax.Schedule:
    """Linear warm-up to `config.learning_rate`, then "cosine" or "linear" decay to zero."""
    peak, warmup = config.learning_rate, min(config.warmup_steps, steps)
    rest = max(steps - warmup, 1)
    if config.schedule == "cosine":
        decay = optax.cosine_decay_schedule(peak, rest)
    else:
        decay = optax.linear_schedule(peak, 0.0, rest)
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def make_optimizer(config: StageSettings, steps: int) -> optax.GradientTransformation:
    """The optimizer of a stage (`config.sft` or `config.grpo`) that lasts `steps` steps.

    It works on a flat dict {path: array}, as `state.split` gives. `config.moment_dtype` is that of
    both moments.
    """

    def decayed(params: dict) -> dict:
        return {path: path.endswith(DECAYED) for path in params}

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        scale_by_adam(config.b1, config.b2, config.eps, jnp.dtype(config.moment_dtype)),
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )


def step(
    optimizer: optax.GradientTransformation,
    grads: dict,
    state: optax.OptState,
    params: dict,
    number: jax.Array,
    signal: jax.Array,
) -> tuple[dict, optax.OptState]:
    """One step of an optimizer, which a gradient without a signal leaves undone.

    Then neither parameters nor moments move, by momentum or by weight decay, and only the schedule
    goes on.

    Args:
      optimizer: any.
      grads: of the parameters.
      state: of the optimizer.
      params: a flat dict.
      number: of the steps before, for draws (`apply_updates`).
      signal: [] bool, of `has_signal`.

    Returns:
      (parameters, state of the optimizer).
    """
    updates, new = optimizer.update(grads, state, params)
    applied = apply_updates(params, updates, number)

    def is_schedule(x: Any) -> bool:
        return isinstance(x, optax.ScaleByScheduleState)

    def chosen(new: Any, old: Any) -> Any:
        return new if is_schedule(new) else jnp.where(signal, new, old)

    return jax.tree.map(chosen, (applied, new), (params, state), is_leaf=is_schedule)


def has_signal(norm: jax.Array) -> jax.Array:
    """Whether a gradient of this norm says anything: it is finite, and not 0 everywhere."""
    return (norm > 0) & (norm < jnp.inf)


def scale_by_adam(
    b1: float, b2: float, eps: float, dtype: jnp.dtype
) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, computed in float32, its moments kept in `dtype` in between.

    The second moment is rounded up or down at random, so that it is right on average: at
    b2 = 0.999 a step changes it by less than bfloat16 can tell, and rounded to the nearest number
    it would stand still. What is drawn is a function of (step, parameter) alone.
    """
    adam = optax.scale_by_adam(b1, b2, eps)

    def cast(state: optax.ScaleByAdamState, dtype: jnp.dtype) -> optax.ScaleByAdamState:
        mu, nu = jax.tree.map(lambda x: x.astype(dtype), (state.mu, state.nu))
        return state._replace(mu=mu, nu=nu)

    def init(params: dict) -> optax.ScaleByAdamState:
        return cast(adam.init(params), dtype)

    def update(grads: dict, state: optax.ScaleByAdamState, params: dict | None = None):
        grads = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
        updates, new = adam.update(grads, cast(state, jnp.float32), params)
        if dtype == jnp.bfloat16:
            new = new._replace(nu=_round_all(new.nu, 0, new.count))
        return updates, cast(new, dtype)

    return optax.GradientTransformation(init, update)


def apply_updates(params: dict, updates: dict, step: jax.Array) -> dict:
    """`optax.apply_updates`, which leaves bfloat16 parameters right on average.

    Rounded to the nearest number most would never move: a step of 1e-6 is far less than two of
    them are apart. They are rounded up or down at random (https://arxiv.org/abs/2010.06192); what
    is drawn is a function of (step, parameter) alone.
    """
    if any(x.dtype != jnp.bfloat16 for x in params.values()):
        return optax.apply_updates(params, updates)
    whole = jax.tree.map(lambda x, update: x.astype(jnp.float32) + update, params, updates)
    return _round_all(whole, 1, step)


def _round_all(tree: dict, stream: int, step: jax.Array) -> dict:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(stream), step), len(leaves))
    return structure.unflatten(map(round_at_random, keys, leaves))


def round_at_random(key: jax.Array, x: jax.Array) -> jax.Array:
    """float32 -> the bfloat16 below or above, each as likely as it is near: right on average."""
    # A bfloat16 is the upper half of a float32.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits += jax.random.bits(key, x.shape, jnp.uint16)
    upper = (bits >> 16).astype(jnp.uint16)
    return jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
