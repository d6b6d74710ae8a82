"""AdamW with warm-up and decay, from optax, with the settings of Reason-RFT's public scripts."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from rrft_jax.settings import StageSettings

# Weight decay never applies to biases and norms.
DECAYED = ("/kernel", "/embedding", "/a", "/b")


def learning_rate(config: StageSettings, steps: int) -> optax.Schedule:
    """Return the schedule: linear warm-up to `config.learning_rate`, then decay to zero.

    The decay is "cosine" or "linear".
    """
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
    """Return the optimizer of a stage (`config.sft` or `config.grpo`) of `steps` updates.

    It works on a flat dict {path: array}, as `state.split` returns. Both moments are kept in
    `config.moment_dtype`.
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
) -> tuple[dict, optax.OptState, jax.Array, jax.Array]:
    """Run one step of an optimizer; skip it if the gradient has no signal.

    In a skipped step neither momentum nor weight decay changes parameters or moments. Only the
    schedule advances.

    Args:
      optimizer: any optax optimizer.
      grads: the gradients of the parameters.
      state: the optimizer's state.
      params: the parameters, a flat dict.
      number: the number of steps before this one, for the random rounding of `apply_updates`.
      signal: [] bool, the result of `has_signal`.

    Returns:
      (parameters; optimizer's state; [] bool: whether the step may have changed a parameter;
      [] bool: whether all parameters are finite numbers after it).
    """
    updates, new = optimizer.update(grads, state, params)
    applied = apply_updates(params, updates, number)

    def is_schedule(x: Any) -> bool:
        return isinstance(x, optax.ScaleByScheduleState)

    def chosen(new: Any, old: Any) -> Any:
        return new if is_schedule(new) else jnp.where(signal, new, old)

    params, state = jax.tree.map(chosen, (applied, new), (params, state), is_leaf=is_schedule)

    def found(x: jax.Array, update: jax.Array) -> jax.Array:
        """Return 2 if a number is not finite, else 1 if one may have changed, in one pass.

        The updates tell what changes. To compare with the parameters before, XLA would copy them.
        """
        changed = (signal & (update != 0)).astype(jnp.int8)
        return jnp.max(jnp.where(jnp.isfinite(x), changed, jnp.int8(2)))

    codes = jnp.stack(jax.tree.leaves(jax.tree.map(found, params, updates)))
    return params, state, jnp.any(codes > 0), jnp.all(codes < 2)


def has_signal(norm: jax.Array) -> jax.Array:
    """Return whether a gradient of this norm has a signal: it is finite and not 0 everywhere."""
    return (norm > 0) & (norm < jnp.inf)


def scale_by_adam(
    b1: float, b2: float, eps: float, dtype: jnp.dtype
) -> optax.GradientTransformation:
    """Return `optax.scale_by_adam`, computed in float32, with moments stored in `dtype`.

    The second moment is rounded up or down at random, so that it is right on average. At
    b2 = 0.999 a step changes it by less than bfloat16 can represent. Rounded to the nearest number
    it would never change. The random numbers are a function of (step, parameter) alone.
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
    """Apply updates as `optax.apply_updates` does, but round bfloat16 parameters at random.

    Rounded to the nearest number most parameters would never move: a step of 1e-6 is far less than
    the distance of neighbouring bfloat16 numbers. Rounding up or down at random is right on average
    (https://arxiv.org/abs/2010.06192). The random numbers are a function of (step, parameter)
    alone.
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
    """Round float32 to the bfloat16 below or above at random, so that the mean is exact.

    The nearer a number is, the likelier it is taken.
    """
    # A bfloat16 is the upper half of a float32.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits += jax.random.bits(key, x.shape, jnp.uint16)
    upper = (bits >> 16).astype(jnp.uint16)
    return jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
