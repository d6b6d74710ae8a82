"""What a run trains: all weights, or an adapter beside frozen ones (`models/adapter.py`).

Parameters are {"vision", "language"}, or {"vision", "language", "adapter"}. A stage splits them:

                      base                  trained, in the state and its checkpoints
    full fine-tuning  {}                    {"vision", "language"}
    LoRA              {"vision", "language"}  {"adapter"}

The base is no part of the state. A program has it as an argument of its own and consumes the state
alone, so one copy of the base serves both stages, the sampler, and GRPO's reference.
"""

import dataclasses
import math
import shlex
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Key

from rrft_jax.errors import UserError
from rrft_jax.hf import adapters, kinds
from rrft_jax.models import adapter, table
from rrft_jax.models.adapter import LoRA
from rrft_jax.models.arrays import Array
from rrft_jax.models.config import VLMConfig
from rrft_jax.models.vlm import VLM
from rrft_jax.parallel import sharding
from rrft_jax.settings import Config, LoRASettings
from rrft_jax.training import state as states

# Streams of random keys; `grpo.py` and `evaluation/evaluator.py` have others.
INIT_STREAM, DROPOUT_STREAM = 3, 4


def lora(settings: LoRASettings, sizes: VLMConfig) -> LoRA | None:
    """Return the form of a run's adapter; None if all weights are trained.

    Raises:
      UserError: no linear map of the model has such a path.
    """
    if not settings.rank:
        return None
    targets = adapter.targets(sizes, settings.targets)
    return LoRA(settings.rank, settings.scale, targets, settings.dropout)


def check(config: Config, sizes: VLMConfig) -> str:
    """Check the settings of a run's adapter; return the line about `model.adapter`, "" without one.

    Raises:
      UserError: no linear map of the model has a path of the targets, the folder holds no adapter
        of this model, or training can't go on in it: its form is not that of `config.lora`.
    """
    own = lora(config.lora, sizes)
    if not config.model.adapter:
        return ""
    folder = kinds.adapter(config.model.adapter)
    given, _ = adapters.read(folder, sizes)
    alpha = given.rank * given.scale
    line = f"adapter: rank {given.rank}, in {len(given.targets)} linear maps"
    if own is None:
        return f"{line}; merged into the weights"
    same = (own.rank, own.targets) == (given.rank, given.targets)
    if same and math.isclose(own.scale, given.scale):
        return f"{line}; training goes on in it"
    pattern = "|".join(given.targets)
    if given.targets == adapter.targets(sizes, adapter.DECODER):
        pattern = adapter.DECODER
    raise UserError(
        f"{folder}: an adapter of another form than --config.lora; to train it further, give "
        f"--config.lora.rank={given.rank} --config.lora.alpha={alpha:.17g} "
        f"--config.lora.targets={shlex.quote(pattern)}; to merge it and train all weights, give "
        "neither tuning=lora nor --config.lora"
    )


def dtype(config: Config) -> str:
    """Return the dtype that the weights of a run's model are read in."""
    if not config.lora.rank:
        return config.model.dtype
    own = config.lora.base_dtype
    return own if own in ("float32", "bfloat16") else config.model.compute_dtype


def begin(config: Config, model: VLM, params: dict) -> tuple[VLM, dict]:
    """Return the model and the parameters of a run, from those of its folder.

    With `config.lora.rank` they have the adapter in `config.model.adapter`, or a fresh one, which
    is a function of the seed. `params` may not be used after this.
    """
    form = lora(config.lora, model.config)
    if form is None:
        return model, params
    if config.lora.base_dtype == "int8":
        base = states.frozen_copy(model, params, "int8")
        for x in jax.tree.leaves(params):
            x.delete()
        params = base
    model = dataclasses.replace(model, lora=form)
    if config.model.adapter:
        return model, {**params, "adapter": _read(config, model)}
    key = jax.random.fold_in(jax.random.key(config.seed), INIT_STREAM)
    own = jnp.dtype(config.model.dtype)

    def fresh(key: Array) -> dict:
        return jax.tree.map(lambda x: x.astype(own), adapter.init(key, model.config, form))

    shardings = jax.tree.map(lambda x: x.sharding, abstract_adapter(model, own))
    return model, {**params, "adapter": jax.jit(fresh, out_shardings=shardings)(key)}


def _read(config: Config, model: VLM) -> dict:
    """Return the adapter in `config.model.adapter`, on the mesh."""
    _, arrays = adapters.read(kinds.adapter(config.model.adapter), model.config)

    def place(like: jax.ShapeDtypeStruct, array: np.ndarray) -> jax.Array:
        array = array.astype(like.dtype)
        if like.sharding is None:
            return jnp.asarray(array)
        return jax.make_array_from_callback(array.shape, like.sharding, lambda index: array[index])

    own = abstract_adapter(model, jnp.dtype(config.model.dtype))
    return jax.tree.map(place, own, table.unflatten(arrays))


def summary(params: dict) -> str:
    """Return the line about an adapter that a run prints; "" without one."""
    if "adapter" not in params:
        return ""
    base, trained = split(params)
    own, whole = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (trained, base))
    number = len(adapter.pairs(params["adapter"]))
    return f"lora: {own:,} trained parameters in {number} linear maps, beside {whole:,} frozen ones"


def split(params: dict) -> tuple[dict, dict]:
    """Return (base, trained); together they are the parameters."""
    if "adapter" not in params:
        return {}, params
    base = {name: part for name, part in params.items() if name != "adapter"}
    return base, {"adapter": params["adapter"]}


def reference(model: VLM, params: dict, dtype: str) -> dict:
    """Return the parameters of the policy of now, which survive an update.

    Args:
      model: the model.
      params: the policy's parameters.
      dtype: see `state.frozen_copy`; of no effect with an adapter. Then the reference is the same
        base, beside a copy of the adapter unless the adapter changes nothing yet.
    """
    base, trained = split(params)
    if not base:
        return states.frozen_copy(model, params, dtype)
    if jax.jit(adapter.is_fresh)(trained["adapter"]):
        return base
    return {**base, **jax.tree.map(jnp.copy, trained)}


def row_keys(model: VLM, seed: int, step: Array, rows: int) -> Key[Array, " B"] | None:
    """Return the random keys of a batch's rows for the dropout of an update; None without dropout.

    A key is a function of (seed, step, row), so neither the mesh nor the micro-batches change it.
    """
    if model.lora is None or not model.lora.dropout:
        return None
    key = jax.random.fold_in(jax.random.key(seed), DROPOUT_STREAM)
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, step), row))(
        jnp.arange(rows)
    )


def axes(keys: Key[Array, " B"] | None) -> str | None:
    """Return the logical axes of the result of `row_keys`."""
    return None if keys is None else "B"


def whole(
    model: VLM, base: dict | None, trained: dict, keys: Key[Array, " B"] | None = None
) -> dict:
    """Return the parameters of (base, trained); with `keys` they drop inputs of the adapter."""
    params = {**(base or {}), **trained}
    return params if keys is None else adapter.dropped(params, keys, model.lora.dropout)


def trained_shapes(model: VLM) -> dict:
    """Return a tree like a checkpoint's parameters, of shapes."""
    if model.lora is None:
        return table.parameter_shapes(model.config)
    return {"adapter": adapter.shapes(model.config, model.lora)}


def abstract(config: Config, model: VLM) -> tuple[dict, dict]:
    """Return (base, trained) of a run as shapes with shardings."""
    own = jnp.dtype(dtype(config))
    params = jax.tree.map(
        lambda where, shape: jax.ShapeDtypeStruct(shape, own, sharding=where),
        table.parameter_shardings(model.config, model.mesh),
        table.parameter_shapes(model.config),
    )
    if model.lora is None:
        return {}, params
    if config.lora.base_dtype == "int8":
        params = states.abstract_copy(model, params, "int8")
    return params, {"adapter": abstract_adapter(model, jnp.dtype(config.model.dtype))}


def abstract_adapter(model: VLM, dtype: Any) -> dict:
    """Return the adapter as shapes, with shardings if the model has a mesh."""

    def like(axes: str, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        where = model.mesh and sharding.sharding(model.mesh, axes, shape)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    return jax.tree.map(
        like, adapter.axes(model.config, model.lora), adapter.shapes(model.config, model.lora)
    )
