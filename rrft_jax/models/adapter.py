"""Low-rank adapters of linear maps (LoRA, https://arxiv.org/abs/2106.09685).

    y = x W + scale * (x a) b

The weights W are frozen. a [in,r] and b [r,out] are trained. They are a third part of the
parameters, beside "vision" and "language", and mirror the modules that they belong to:

    language/layers/q/kernel  [L,in,out]  adapter/language/layers/q/a  [L,in,r]
                                          adapter/language/layers/q/b  [L,r,out]

Parameters without this part are those of the model without adapter.
"""

import dataclasses
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Key

from rrft_jax.errors import UserError
from rrft_jax.models import leaves, table
from rrft_jax.models.arrays import Array
from rrft_jax.models.config import Entry, VLMConfig
from rrft_jax.models.layers import widened

DECODER = "decoder"  # the linear maps of the decoder's layers
_SHOWN = 8  # paths in an error


@dataclasses.dataclass(frozen=True)
class LoRA:
    """The form of an adapter.

    Attributes:
      rank: r.
      scale: the factor of (x a) b.
      targets: the paths of the adapted modules, such as "language/layers/q", in the table's order.
      dropout: the share of the values of x that training sets to 0 for (x a) b alone.
    """

    rank: int
    scale: float
    targets: tuple[str, ...]
    dropout: float = 0.0


def targets(config: VLMConfig, pattern: str) -> tuple[str, ...]:
    """Return the paths of the modules that a pattern chooses, in the table's order.

    Args:
      config: the sizes of the model.
      pattern: "decoder" for all linear maps of the decoder's layers; or a regular expression, which
        chooses the linear maps whose whole path it matches, such as ".*/[qv]".

    Raises:
      UserError: the expression is broken, or chooses nothing.
    """
    paths = tuple(_linear(config))
    try:
        expression = re.compile("language/layers/.*" if pattern == DECODER else pattern)
    except re.error as error:
        raise UserError(f"lora.targets: {pattern!r} is not a regular expression: {error}") from None
    chosen = tuple(path for path in paths if expression.fullmatch(path))
    if not chosen:
        some = ", ".join(paths[:: -(-len(paths) // _SHOWN)])
        raise UserError(
            f"lora.targets: {pattern!r} matches the whole path of no linear map; give "
            f"{DECODER!r}, or an expression for paths such as {some}"
        )
    return chosen


def shapes(config: VLMConfig, lora: LoRA) -> dict:
    """Return a tree like the adapter, of shapes."""
    flat = {}
    for path, entry in _entries(config, lora).items():
        *layers, inputs, outputs = table.shape(entry, config)
        flat[f"{path}/a"] = (*layers, inputs, lora.rank)
        flat[f"{path}/b"] = (*layers, lora.rank, outputs)
    return table.unflatten(flat)


def axes(config: VLMConfig, lora: LoRA) -> dict:
    """Return a tree like the adapter, of logical axes ("LDr", "LrH")."""
    flat = {}
    for path, entry in _entries(config, lora).items():
        *layers, inputs, outputs = table.axes(entry)
        flat[f"{path}/a"] = "".join([*layers, inputs, "r"])
        flat[f"{path}/b"] = "".join([*layers, "r", outputs])
    return table.unflatten(flat)


def init(key: Key[Array, ""], config: VLMConfig, lora: LoRA) -> dict:
    """Return a fresh float32 adapter, which changes nothing yet: b is 0.

    a is uniform between -1/sqrt(in) and 1/sqrt(in), as in the library peft. It is a function of
    (key, path), so the mesh and the other targets do not change it.
    """

    def fresh(path: str, shape: tuple[int, ...]) -> Array:
        if path.endswith("/b"):
            return jnp.zeros(shape)
        bound = shape[-2] ** -0.5
        return jax.random.uniform(_fold(key, path), shape, minval=-bound, maxval=bound)

    flat = table.flatten(shapes(config, lora))
    return table.unflatten({path: fresh(path, shape) for path, shape in flat.items()})


def scaled(adapter: dict, scale: float) -> dict:
    """Return an adapter whose product (x a) b has the factor `scale`: b is multiplied by it."""
    # JAX confuses the gradients of a loop's parameters if only some of them are unchanged, and
    # gradients are added up in place (`training/state.py`). So a is multiplied too.
    flat = table.flatten(adapter)
    for path, (a, b) in pairs(adapter).items():
        flat |= {f"{path}/a": 1.0 * widened(a), f"{path}/b": scale * widened(b)}
    return table.unflatten(flat)


def dropped(params: dict, keys: Key[Array, " B"] | None, dropout: float) -> dict:
    """Return parameters under which the model drops inputs of the adapter at random.

    Args:
      params: parameters with an adapter.
      keys: a random key for each row of the batch; None drops nothing.
      dropout: the share of the inputs that is set to 0. The others are scaled up.
    """
    if keys is None:
        return params
    flat = table.flatten(params["adapter"])
    for path in [path.removesuffix("/a") for path in flat if path.endswith("/a")]:
        own = _fold(keys, path)
        keep = jnp.float32(1 - dropout)
        if (a := flat[f"{path}/a"]).ndim == 3:
            layers = jnp.arange(len(a))
            own = jax.vmap(lambda layer: _fold_in(own, layer))(layers)  # noqa: B023
            keep = jnp.full(len(a), keep)
        flat |= {f"{path}/keys": jax.random.key_data(own), f"{path}/keep": keep}
    return {**params, "adapter": table.unflatten(flat)}


def is_fresh(adapter: dict) -> Array:
    """Return whether the adapter changes nothing yet, because every b is 0: [] bool."""
    flat = table.flatten(adapter)
    return ~jnp.any(jnp.stack([jnp.any(x != 0) for path, x in flat.items() if path[-2:] == "/b"]))


def merge(params: dict, scale: float) -> dict:
    """Return parameters without adapter, whose adapted kernels are W + scale * a b.

    The sum is computed in float32, and rounded to W's dtype. Kernels in eight bits become float32.
    """
    base = {name: leaves.whole(part) for name, part in params.items() if name != "adapter"}
    flat = table.flatten(base)
    for path, (a, b) in pairs(params.get("adapter", {})).items():
        flat[f"{path}/kernel"] = merged(flat[f"{path}/kernel"], a, b, scale)
    return table.unflatten(flat)


def merged(kernel: Array, a: Array, b: Array, scale: float) -> Array:
    """Return W + scale * a b, a sum in float32, in W's dtype."""
    product = jnp.matmul(widened(a), widened(b), precision=jax.lax.Precision.HIGHEST)
    return (widened(kernel) + scale * product).astype(kernel.dtype)


def pairs(adapter: dict) -> dict[str, tuple[Any, Any]]:
    """Return module's path -> (a, b)."""
    flat = table.flatten(adapter)
    paths = [path.removesuffix("/a") for path in flat if path.endswith("/a")]
    return {path: (flat[f"{path}/a"], flat[f"{path}/b"]) for path in paths}


def _linear(config: VLMConfig) -> dict[str, Entry]:
    """Return module's path -> its kernel's entry, for every linear map but the head."""
    return {
        entry.path.removesuffix("/kernel"): entry
        for entry in table.entries(config)
        if entry.transform == "transpose" and entry.path != table.HEAD
    }


def _entries(config: VLMConfig, lora: LoRA) -> dict[str, Entry]:
    linear = _linear(config)
    return {path: linear[path] for path in lora.targets}


def _fold(keys: Key[Array, "*n"], path: str) -> Key[Array, "*n"]:
    return _fold_in(keys, zlib.crc32(path.encode()))


def _fold_in(keys: Key[Array, "*n"], number: Any) -> Key[Array, "*n"]:
    if not keys.ndim:
        return jax.random.fold_in(keys, number)
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
