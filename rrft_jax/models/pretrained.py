"""Hugging Face folders: loads one into (model, params), writes one from them, byte for byte.

Everything that can be wrong with a folder is found from its file headers, before a weight is read.
Weights come from safetensors alone, one tensor at a time, straight to their place in an array of
ours and from there to its devices: host memory holds one stacked array, never the whole model.
"""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import save_file

from rrft_jax.errors import UserError
from rrft_jax.models import parameters
from rrft_jax.models.config import Qwen2VLConfig
from rrft_jax.models.qwen2_vl import Qwen2VL
from rrft_jax.parallel import distributed, sharding

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)

Path = str | os.PathLike


def load_pretrained(
    path: Path,
    dtype: Any = None,
    *,
    compute_dtype: Any = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[Qwen2VL, dict]:
    """Loads a Hugging Face Qwen2-VL folder.

    Args:
      path: the folder.
      dtype: dtype of the parameters; None keeps the file's.
      compute_dtype: dtype of the activations; None takes that of the parameters.
      mesh: places each parameter as the table says; None puts all on the first device.

    Returns:
      (model, params).

    Raises:
      UserError: the folder, a file or a weight is not what it should be.
    """
    folder = _folder(path)
    config, _ = read_config(folder)
    weights = _Weights(folder, config)
    params = {}
    for entry in parameters.entries(config):
        array = weights.read(entry, dtype)
        params[entry.path] = _place(array, parameters.letters(entry), mesh)
    if compute_dtype is None:
        compute_dtype = _common_dtype(params)
    model = Qwen2VL(config, dtype=jnp.dtype(compute_dtype), mesh=mesh, source=str(folder))
    return model, parameters.unflatten(params)


def save_pretrained(
    path: Path,
    model: Qwen2VL,
    params: dict,
    source: Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a Hugging Face folder: the weights, in the dtype that they have, and all else.

    Of several processes all must call it, and the first one writes.

    The folder appears whole or not at all; in one that exists, files of the same names and the
    weights of an earlier save are replaced.

    Args:
      path: the folder, made if missing.
      model: the model.
      params: its parameters.
      source: the folder that config, tokenizer and preprocessor files are taken from; None is the
        one that the model was loaded from.
      max_shard_bytes: weights above this size are written as several files and an index.

    Raises:
      UserError: there is no source, or `path` is a file.
    """
    source = source or model.source
    if source is None:
        raise UserError(
            f"{path}: cannot save a model that was not loaded from a folder without `source`, "
            "the folder whose config and tokenizer files belong to it"
        )
    source, path = _folder(source), pathlib.Path(path).expanduser().absolute()
    _, raw = read_config(source)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, expected a folder to save the model in")
    if not distributed.is_first():
        _write_weights(None, model.config, parameters.flatten(params), max_shard_bytes)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir()
        _write_weights(partial, model.config, parameters.flatten(params), max_shard_bytes)
        raw = _with_dtype(raw, {str(p.dtype) for p in jax.tree.leaves(params)})
        (partial / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
        for name in COPIED:
            if (source / name).exists():
                shutil.copyfile(source / name, partial / name)
        if not path.exists():
            partial.rename(path)
            return
        for stale in [path / INDEX, path / WEIGHTS, *path.glob("model-*-of-*.safetensors")]:
            stale.unlink(missing_ok=True)
        for file in partial.iterdir():
            file.replace(path / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_config(path: Path) -> tuple[Qwen2VLConfig, dict]:
    """The sizes of the model in a folder, and its whole `config.json`."""
    file = _folder(path) / "config.json"
    if not file.exists():
        raise UserError(f"{file}: no such file; expected the folder of a Qwen2-VL checkpoint")
    raw = read_json(file)
    config = Qwen2VLConfig.from_dict(raw, str(file))
    if config.vision_pad_token is None:
        tokenizer = read_json(file.with_name("tokenizer.json"))
        added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", ())}
        config = dataclasses.replace(config, vision_pad_token=added.get("<|vision_pad|>"))
    return config, raw


def stop_tokens(path: Path) -> tuple[int, ...]:
    """The tokens that end a generation by the folder's own word; empty if it says nothing."""
    folder = _folder(path)
    for name in ("generation_config.json", "config.json"):
        raw = read_json(folder / name)
        tokens = raw.get("eos_token_id", raw.get("text_config", {}).get("eos_token_id"))
        if tokens is not None:
            return tuple(tokens) if isinstance(tokens, list) else (tokens,)
    return ()


class _Weights:
    """The safetensors files of a folder, opened and checked against the table, not yet read."""

    def __init__(self, folder: pathlib.Path, config: Qwen2VLConfig):
        self.config = config
        self.found = {}  # today's name -> (file, its name there, open file)
        for file in _weight_files(folder):
            try:
                handle = safetensors.safe_open(file, framework="numpy")
            except safetensors.SafetensorError as error:
                raise UserError(
                    f"{file}: not a whole safetensors file ({error}); copy or download it again"
                ) from None
            for name in handle.keys():
                self.found[parameters.import_name(name)] = (file, name, handle)
        self._check(folder)

    def _check(self, folder: pathlib.Path) -> None:
        expected = {
            name: parameters.hf_shape(entry, self.config)
            for entry in parameters.entries(self.config)
            for name in parameters.names(entry, self.config)
        }
        missing = [name for name in expected if name not in self.found]
        if missing:
            raise UserError(
                f"{folder}: weight {missing[0]} is in none of its safetensors files"
                + (f", nor are {len(missing) - 1} others" if len(missing) > 1 else "")
                + "; config.json asks for it"
            )
        for name, (file, its_name, handle) in self.found.items():
            if name == parameters.HEAD and self.config.text.tied:
                self._check_tied_head(file)
                continue
            if name not in expected:
                raise UserError(f"{file}: weight {its_name} is not one of Qwen2-VL's as configured")
            header = handle.get_slice(its_name)
            if tuple(header.get_shape()) != expected[name]:
                raise UserError(
                    f"{file}: weight {its_name} has shape {tuple(header.get_shape())}, "
                    f"config.json asks for {expected[name]}"
                )
            if header.get_dtype() not in DTYPES:
                raise UserError(
                    f"{file}: weight {its_name} is stored as {header.get_dtype()}, "
                    f"expected {', '.join(DTYPES)}"
                )

    def _check_tied_head(self, file: pathlib.Path) -> None:
        """Some writers repeat the embedding as the head of a tied model: harmless if equal."""
        embedding = self._tensor("model.language_model.embed_tokens.weight")
        if not np.array_equal(self._tensor(parameters.HEAD), embedding):
            raise UserError(
                f"{file}: {parameters.HEAD} differs from the embedding, but config.json ties them; "
                "set tie_word_embeddings to false there"
            )

    def _tensor(self, name: str) -> np.ndarray:
        _, its_name, handle = self.found[name]
        return handle.get_tensor(its_name)

    def read(self, entry: parameters.Entry, dtype: Any) -> np.ndarray:
        """The entry's array, all layers stacked."""
        names = parameters.names(entry, self.config)
        if dtype is None:
            stored = {self.found[n][2].get_slice(self.found[n][1]).get_dtype() for n in names}
            dtype = functools.reduce(jnp.promote_types, (DTYPES[d] for d in stored))
        array = np.empty(parameters.shape(entry, self.config), jnp.dtype(dtype))
        for name, layer in zip(names, array if entry.stacked else [array]):
            layer[...] = parameters.from_hf(entry, self._tensor(name))
        return array


def _place(array: np.ndarray, letters: str, mesh: jax.sharding.Mesh | None) -> jax.Array:
    if mesh is None:
        return jnp.asarray(array)
    layout = sharding.sharding(mesh, letters, array.shape)
    return jax.make_array_from_callback(array.shape, layout, lambda index: array[index])


def _common_dtype(params: dict) -> jnp.dtype:
    return functools.reduce(jnp.promote_types, {p.dtype for p in jax.tree.leaves(params)})


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if not (folder / INDEX).exists():
        others = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth"))
        raise UserError(
            f"{folder}: neither {WEIGHTS} nor {INDEX} is there"
            + (f"; {others[0]} is not read, convert it to safetensors first" if others else "")
        )
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{folder / INDEX}: 'weight_map' is missing")
    files = [folder / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: no such file, but {INDEX} names it; download it again")
    return files


def _write_weights(
    folder: pathlib.Path | None, config: Qwen2VLConfig, params: dict[str, jax.Array], max_bytes: int
) -> None:
    """Writes the weights' files; without a folder it only takes part in gathering them."""
    metadata = {"format": "pt"}  # which transformers wants to see
    plan = _plan_shards(config, params, max_bytes)
    weight_map, last = {}, (None, None)
    for i, shard in enumerate(plan):
        file = WEIGHTS if len(plan) == 1 else f"model-{i + 1:05}-of-{len(plan):05}.safetensors"
        tensors = {}
        for entry, layer, name in shard:
            if last[0] is not entry:
                last = (entry, sharding.whole(params[entry.path]))  # gathered once
            one = last[1][layer] if entry.stacked else last[1]
            tensors[name] = parameters.to_hf(entry, one, config)
        if folder is None:
            continue
        save_file(tensors, folder / file, metadata=metadata)
        (folder / file).chmod(0o644)  # it is written for its owner alone
        weight_map.update(dict.fromkeys(tensors, file))
    if folder is not None and len(plan) > 1:
        total = sum(p.nbytes for p in params.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _plan_shards(
    config: Qwen2VLConfig, params: dict[str, jax.Array], max_bytes: int
) -> list[list[tuple[parameters.Entry, int, str]]]:
    """Which tensors go to which file: in the order of the table, as many as fit."""
    shards, size = [[]], 0
    for entry in parameters.entries(config):
        names = parameters.names(entry, config)
        one = params[entry.path].nbytes // len(names)
        for layer, name in enumerate(names):
            if shards[-1] and size + one > max_bytes:
                shards.append([])
                size = 0
            shards[-1].append((entry, layer, parameters.export_name(name)))
            size += one
    return shards


def _with_dtype(raw: Any, dtypes: set[str]) -> Any:
    """A config that says which dtype the weights have, at the places where it says one.

    What it said stays where some of them have it: norms in float32 among weights in bfloat16 are
    a bfloat16 model, which is how transformers loads them by default.
    """
    if not isinstance(raw, dict):
        return raw
    common = str(functools.reduce(jnp.promote_types, dtypes))
    return {
        k: (v if v in dtypes else common)
        if k in ("dtype", "torch_dtype")
        else _with_dtype(v, dtypes)
        for k, v in raw.items()
    }


def _folder(path: Path) -> pathlib.Path:
    folder = pathlib.Path(path).expanduser()
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; give one that holds a Qwen2-VL checkpoint")
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder; give the one that holds config.json")
    return folder


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint folder; empty where there is no such file.

    Raises:
      UserError: it can't be read as a JSON object.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content
