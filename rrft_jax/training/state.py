"""The state of a stage of training, its layout on the mesh, and one update of it."""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from rrft_jax.errors import UserError
from rrft_jax.models import int8
from rrft_jax.models.layers import widened
from rrft_jax.models.vlm import VLM
from rrft_jax.parallel import sharding
from rrft_jax.training import optimizer as optimizers


@flax.struct.dataclass
class TrainState:
    """The arrays that an update changes.

    `params` is the whole model, or the adapter alone (`tuning.py`). `opt_state` covers only the
    trained parameters, so a frozen weight has no moments.
    """

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    moved: jax.Array  # [] bool: True once a step may have changed a trained weight


def split(params: dict, freeze: str) -> tuple[dict, dict]:
    """Split the parameters into flat dicts {path: array}: (trained, frozen).

    `freeze` is a regular expression. It freezes the parameters whose whole path it matches. An
    adapter is always trained.

    Raises:
      UserError: the expression is broken, or freezes everything.
    """
    try:
        pattern = re.compile(freeze)
    except re.error as error:
        raise UserError(f"freeze: {freeze!r} is not a regular expression: {error}") from None
    flat = flatten_dict(params, sep="/")
    frozen = {
        path: x
        for path, x in flat.items()
        if freeze and pattern.fullmatch(path) and not path.startswith("adapter/")
    }
    trained = {path: x for path, x in flat.items() if path not in frozen}
    if not trained:
        raise UserError(f"freeze: {freeze!r} matches every parameter: nothing is left to train")
    return trained, frozen


def merge(trained: dict, frozen: dict) -> dict:
    """Return the nested parameters that `split` was given."""
    return unflatten_dict({**trained, **frozen}, sep="/")


def create(
    params: dict, optimizer: optax.GradientTransformation, freeze: str, mesh: Mesh
) -> TrainState:
    """Return a fresh state. The optimizer's moments are sharded like their parameters."""
    where = layout(abstract(params, optimizer, freeze, mesh))
    trained, _ = split(params, freeze)
    opt_state = jax.jit(optimizer.init, out_shardings=where.opt_state)(trained)
    step = jax.device_put(jnp.zeros((), jnp.int32), where.step)
    moved = jax.device_put(jnp.zeros((), bool), where.moved)
    return TrainState(step=step, params=params, opt_state=opt_state, moved=moved)


def abstract(
    params: dict, optimizer: optax.GradientTransformation, freeze: str, mesh: Mesh
) -> TrainState:
    """Return the shapes, dtypes and shardings of a fresh state; `params` may be abstract too."""
    trained, _ = split(params, freeze)
    whole = sharding.replicated(mesh)

    def like(x: Any, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    opt_state = optax.tree_map_params(
        optimizer,
        lambda x, param: like(x, param.sharding),
        jax.eval_shape(optimizer.init, trained),
        trained,
        transform_non_params=lambda x: like(x, whole),
    )
    step, moved = (jax.ShapeDtypeStruct((), dtype, sharding=whole) for dtype in (jnp.int32, bool))
    params = jax.tree.map(lambda x: like(x, x.sharding), params)
    return TrainState(step=step, params=params, opt_state=opt_state, moved=moved)


def frozen_copy(model: VLM, params: dict, dtype: str) -> dict:
    """Return a copy of `params` that survives their donation.

    `dtype` is the config's `grpo.reference_dtype`. "" is the dtype that the model computes in, to
    which weights are rounded at their use anyway. "int8" is the form of `models/int8.py`.
    """
    own = jnp.dtype(model.dtype)

    def copy(params: dict) -> dict:
        if dtype == "int8":
            return int8.quantise(params, own)
        return jax.tree.map(lambda x: jnp.copy(x.astype(own)), params)

    shardings = jax.tree.map(lambda x: x.sharding, abstract_copy(model, params, dtype))
    return jax.jit(copy, out_shardings=shardings)(params)


def abstract_copy(model: VLM, params: dict, dtype: str) -> dict:
    """Return the shapes, dtypes and shardings of the result of `frozen_copy`."""
    own = jnp.dtype(model.dtype)
    if dtype == "int8":
        copy = jax.eval_shape(lambda params: int8.quantise(params, own), params)
        return jax.tree.map(
            lambda axes, x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=sharding.sharding(model.mesh, axes, x.shape)
            ),
            int8.parameter_axes(model.config),
            copy,
        )
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, own, sharding=x.sharding), params)


def layout(state: TrainState) -> TrainState:
    """Return the shardings of a state's arrays, as a tree like the state."""
    return jax.tree.map(lambda x: x.sharding, state)


def update(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    freeze: str,
    loss: Callable[[dict, Any], tuple[jax.Array, dict]],
    micro_batches: Any,
) -> tuple[TrainState, dict]:
    """Run one step of the optimizer on gradients summed over micro-batches, in float32 at least.

    A long sum in bfloat16 stops growing: 256 + 1 is 256 there. So the loss sees narrower parameters
    widened to float32, whose gradients are float32. If the model casts them back before a loop over
    layers (`VLM.param_dtype`), the compiled program holds no widened copy.

    Args:
      state: the state before the step.
      optimizer: the optimizer of the trained parameters.
      freeze: the regular expression of the parameters that are not trained, as in `split`.
      loss: (params, micro-batch) -> (loss, metrics), scaled so that the *sum* over micro-batches
        is the loss of the batch. The result then doesn't depend on the number of micro-batches.
      micro_batches: the batch, split along a new first axis of every array.

    Returns:
      (the state after, metrics summed over micro-batches). The metrics include `loss`,
      `gradient_norm`, `skipped_updates` (1 if the gradient has no signal) and `finite_weights`
      (whether all trained weights are finite numbers after the update).
    """
    trained, frozen = split(state.params, freeze)
    widen = functools.partial(jax.tree.map, widened)

    def of_trained(trained, micro_batch):
        value, metrics = loss(merge(trained, frozen), micro_batch)
        return value, widen({**metrics, "loss": value})

    first = jax.tree.map(lambda x: x[0], micro_batches)
    if jax.tree.leaves(micro_batches)[0].shape[0] == 1:
        grads, metrics = jax.grad(of_trained, has_aux=True)(widen(trained), first)
    else:
        # Each backward pass adds to the sum layer by layer, so only one gradient is in memory.
        total = jax.tree.map(lambda x: jax.new_ref(jnp.zeros_like(x)), widen(trained))

        def accumulate(metrics, micro_batch):
            value, backward, more = jax.vjp(
                lambda trained: of_trained(trained, micro_batch), widen(trained), has_aux=True
            )
            backward.with_refs(total)(jnp.ones_like(value))
            return jax.tree.map(jnp.add, metrics, more), None

        _, shapes = jax.eval_shape(of_trained, widen(trained), first)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        metrics, _ = jax.lax.scan(accumulate, zeros, micro_batches)
        grads = jax.tree.map(jax.ref.freeze, total)
    metrics["gradient_norm"] = norm = optax.tree.norm(grads)
    signal = optimizers.has_signal(norm)
    metrics["skipped_updates"] = 1 - signal
    new, opt_state, moved, finite = optimizers.step(
        optimizer, grads, state.opt_state, trained, state.step, signal
    )
    metrics["finite_weights"] = finite
    state = TrainState(
        step=state.step + 1,
        params=merge(new, frozen),
        opt_state=opt_state,
        moved=state.moved | moved,
    )
    return state, metrics
