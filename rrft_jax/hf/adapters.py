"""PEFT folders: a low-rank adapter in `adapter_config.json` and `adapter_model.safetensors`.

The names of the weights say which modules are adapted. `target_modules` is not read: a pattern
there means other modules in other releases of transformers. A setting that changes what an adapter
computes is supported, or refused by its name.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax import json_files
from rrft_jax.errors import UserError
from rrft_jax.hf import kinds, saving, storage, weights
from rrft_jax.models import adapter as low_rank
from rrft_jax.models import table
from rrft_jax.models.adapter import LoRA
from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel import distributed, sharding

CONFIG, WEIGHTS = kinds.ADAPTER, "adapter_model.safetensors"

# The settings of PEFT's LoraConfig that `_lora` reads.
SUPPORTED = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "lora_dropout", "bias", "init_lora_weights"),
    *("rank_pattern", "alpha_pattern"),
}
# The settings that change nothing once there are weights: the origin of the weights, the choice of
# modules, and arguments of other settings. Any setting of neither kind, known or not, must be off.
IDLE = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"),
    *("task_type", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("ensure_weight_tying", "fan_in_fan_out", "megatron_core", "qalora_group_size"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"),
}
# These leave the base as it is. All others subtract the adapter's first values from the base.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")

_PREFIX = "base_model.model."
_SUFFIXES = {"a": ".lora_A.weight", "b": ".lora_B.weight"}
_MERGE = (
    "merge the adapter into its base (merge_and_unload and save_pretrained of peft), and give the "
    "merged folder as model.path"
)


@dataclasses.dataclass(frozen=True)
class _Place:
    """The place of a PEFT weight: an array of ours and a layer in it; and the weight's shape."""

    path: str
    layer: int
    shape: tuple[int, int]


def read(path: storage.Path, config: VLMConfig) -> tuple[LoRA, dict[str, np.ndarray]]:
    """Read the adapter in a PEFT folder.

    If only some layers of a stack have an adapter (`layers_to_transform`), the others get zeros.
    Zeros change nothing, and their gradients are zero too.

    Args:
      path: the folder, on a disk or at a URL.
      config: the model that the adapter belongs to.

    Returns:
      (its settings, its float32 arrays by their paths). "language/layers/q/a" has shape [L,in,r],
      and "language/layers/q/b" [L,r,out]. A module outside a stack of layers has no L.

    Raises:
      UserError: a file is missing or broken, a weight does not belong to the model, or the adapter
        computes something else than `x W + scale * (x a) b`.
    """
    settings = _settings(path)
    lora = _lora(settings, storage.join(path, CONFIG), low_rank.targets(config, ".*"))
    base = settings.get("base_model_name_or_path") or "which the folder does not name"
    found = _find(path, config, lora, f"set model.path to the adapter's base, {base}")
    places, shapes = _places(config, lora), table.flatten(low_rank.shapes(config, lora))
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in found.items():
        place = places[name]
        if place.path not in arrays:
            arrays[place.path] = np.zeros(shapes[place.path], np.float32)
        value = weights.read(tensor, ((0, tensor.shape[0]),), None)
        _layers(arrays[place.path])[place.layer] = value.T
    targets = tuple(target for target in lora.targets if f"{target}/a" in arrays)
    return dataclasses.replace(lora, targets=targets), arrays


def file_sizes(path: storage.Path) -> dict[str, int]:
    """Return the size in bytes of each file of the adapter in a folder, by its name."""
    _settings(path)
    return {
        CONFIG: len(storage.read(path, CONFIG)),
        WEIGHTS: weights.header(_open(path))[1],
    }


def merge(
    path: storage.Path, config: VLMConfig, params: dict[str, jax.Array]
) -> dict[str, jax.Array]:
    """Return the parameters with the adapter in a folder added to them, and consume them.

    Args:
      path: the folder.
      config: the model.
      params: its parameters by their paths.

    Raises:
      UserError: see `read`.
    """
    lora, arrays = read(path, config)
    for target in lora.targets:
        kernel, a, b = params[f"{target}/kernel"], arrays[f"{target}/a"], arrays[f"{target}/b"]
        add = jax.jit(
            low_rank.merged, static_argnums=3, donate_argnums=0, out_shardings=kernel.sharding
        )
        params[f"{target}/kernel"] = add(kernel, a, b, lora.scale)
    return params


def write(
    path: pathlib.Path,
    config: VLMConfig,
    lora: LoRA,
    adapter: Mapping[str, jax.Array | np.ndarray],
    base: storage.Path,
) -> None:
    """Write an adapter as a PEFT folder, or replace the one that is there.

    All processes must call this, and the first one writes. The names are those of transformers 5.
    Layers of zeros, which a folder with `layers_to_transform` gave, are left out.

    Args:
      path: the folder; made if missing.
      config: the model that the adapter belongs to.
      lora: the adapter's settings.
      adapter: its arrays by their paths, as `read` returns them.
      base: the folder of the model that the adapter belongs to, to name it.
    """
    arrays = {key: sharding.to_host0(jnp.asarray(array)) for key, array in adapter.items()}
    if not distributed.is_host0():
        return
    tensors = {}
    for name, place in _places(config, lora).items():
        tensors[name] = _layers(arrays[place.path])[place.layer].T
    modules = dict.fromkeys(_module(name) for name, tensor in tensors.items() if tensor.any())
    path.mkdir(parents=True, exist_ok=True)
    saving.write_file(
        path / WEIGHTS,
        {_PREFIX + name: x for name, x in tensors.items() if _module(name) in modules},
    )
    alpha = lora.scale * lora.rank
    settings = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": str(base),
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": round(alpha) if round(alpha) / lora.rank == lora.scale else alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        # Each module by its whole name, because parts of names also match in the other tower. A
        # pattern would do for peft and vLLM, but not for SGLang.
        "target_modules": list(modules),
    }
    json_files.replace(path / CONFIG, (json.dumps(settings, indent=2) + "\n").encode())


def _settings(path: storage.Path) -> dict[str, Any]:
    kinds.check_name(path)
    content = storage.read(path, CONFIG)
    if content is None and storage.read(path, "config.json") is not None:
        raise UserError(
            f"{path}: a model, not an adapter (no {CONFIG}); set model.path to it, and "
            "model.adapter to the folder of a PEFT adapter"
        )
    if content is None:
        raise UserError(
            f"{storage.join(path, CONFIG)}: no such file; give the folder of a PEFT adapter"
        )
    return storage.json_object(content, storage.join(path, CONFIG))


def _lora(settings: Mapping[str, Any], where: str, targets: tuple[str, ...]) -> LoRA:
    """Return an adapter's settings with these targets; `where` is their file, for errors."""
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    dropout = settings.get("lora_dropout", 0.0)
    start = settings.get("init_lora_weights", True)
    supported = {
        "peft_type": settings.get("peft_type") == "LORA",
        "bias": settings.get("bias", "none") == "none",
        "init_lora_weights": start in _INITIALISATIONS,
        "rank_pattern": _agrees(settings.get("rank_pattern"), rank),
        "alpha_pattern": _agrees(settings.get("alpha_pattern"), alpha),
    }
    for name, value in {"peft_type": None, **settings}.items():
        if not supported.get(name, name in SUPPORTED | IDLE or not value):
            value = json.dumps(value)
            raise UserError(f"{where}: {name}={value[:60]} is not supported; {_MERGE}")
    for name, value, fits in (
        ("r", rank, type(rank) is int and rank > 0),
        ("lora_alpha", alpha, type(alpha) in (int, float) and math.isfinite(alpha)),
        ("lora_dropout", dropout, type(dropout) in (int, float) and 0 <= dropout < 1),
    ):
        if not fits:
            raise UserError(f"{where}: {name} is {value!r}, expected a number; save it again")
    scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    return LoRA(rank=rank, scale=scale, targets=targets, dropout=float(dropout))


def _agrees(pattern: Any, value: Any) -> bool:
    """Return whether a setting gives this value to all modules that it names."""
    return not pattern or isinstance(pattern, Mapping) and all(x == value for x in pattern.values())


def _find(
    path: storage.Path, config: VLMConfig, lora: LoRA, cure: str
) -> dict[str, weights.Tensor]:
    """Return the place in the file of each weight of an adapter, by its name without PEFT's prefix.

    Args:
      path: the adapter's folder.
      config: the model.
      lora: the adapter's settings, with all modules that can be adapted as targets.
      cure: what to do if the adapter belongs to another model.

    Raises:
      UserError: a weight is missing, or it is not one of such an adapter.
    """
    places, found = _places(config, lora), {}
    for tensor in weights.header(_open(path))[0]:
        name = table.import_name(tensor.name.removeprefix(_PREFIX), config)
        where = f"{tensor.file.path}: weight {tensor.name}"
        if not tensor.name.startswith(_PREFIX):
            raise UserError(f"{where} does not begin with {_PREFIX}; let peft save the adapter")
        if name not in places:
            raise UserError(_unknown(name, where, config) or f"{where} fits no module; {cure}")
        if name in found:
            raise UserError(f"{where} is there by its old name too; delete one of the two")
        if tensor.shape != places[name].shape:
            raise UserError(
                f"{where} has shape {tensor.shape}, but this model and r={lora.rank} in {CONFIG} "
                f"need {places[name].shape}; {cure}"
            )
        if tensor.dtype not in weights.DTYPES:
            raise UserError(
                f"{where} is stored as {tensor.dtype}; save it as {' or '.join(weights.DTYPES)}"
            )
        found[name] = tensor
    modules = {_module(name) for name in found}
    for name in places:
        if name not in found and _module(name) in modules:
            raise UserError(
                f"{storage.join(path, WEIGHTS)}: weight {_PREFIX}{name} is missing beside its "
                "other factor; save the adapter again"
            )
    if not found:
        raise UserError(f"{storage.join(path, WEIGHTS)}: it is empty; save the adapter again")
    return found


def _open(path: storage.Path) -> storage.File:
    """Open the file of weights, or raise UserError if there is none."""
    try:
        file = storage.File(path, WEIGHTS)
        file.read(0, 1)
    except EOFError:
        pass  # reading its header raises an error that says more
    except FileNotFoundError:
        if storage.read(path, "adapter_model.bin") is None:
            raise UserError(f"{storage.join(path, WEIGHTS)}: no such file; save it again") from None
        raise UserError(
            f"{storage.join(path, 'adapter_model.bin')}: only safetensors are read, because "
            "loading this kind of file can run code; load the adapter in peft and save it again"
        ) from None
    return file


def _places(config: VLMConfig, lora: LoRA) -> dict[str, _Place]:
    """Return the place of each weight of an adapter, by its name without PEFT's prefix."""
    entries = {entry.path: entry for entry in table.entries(config)}
    shapes = table.flatten(low_rank.shapes(config, lora))
    return {
        name.removesuffix(".weight") + suffix: _Place(
            f"{target}/{part}", layer, shapes[f"{target}/{part}"][:-3:-1]
        )
        for target in lora.targets
        for layer, name in enumerate(table.names(entries[f"{target}/kernel"], config))
        for part, suffix in _SUFFIXES.items()
    }


def _layers(array: np.ndarray) -> np.ndarray:
    """Return a view of an array of ours with an axis of layers: [L,in,r] or [L,r,out]."""
    return array.reshape(-1, *array.shape[-2:])


def _module(name: str) -> str:
    """Return the module that a weight belongs to: an adapter's, or one that has an adapter."""
    return name.removesuffix(".base_layer.weight").partition(".lora_")[0]


def _unknown(name: str, where: str, config: VLMConfig) -> str:
    """Return the error for a weight of this name that is in the model; "" if none is."""
    known = {name for entry in config.table.entries for name in table.names(entry, config)}
    if name in known:
        return f"{where} is a whole weight of the base (modules_to_save, new tokens); {_MERGE}"
    if f"{_module(name)}.weight" in known:
        return f"{where}: no adapter of this module or of this kind is supported; {_MERGE}"
    return ""
