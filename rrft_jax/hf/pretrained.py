"""Hugging Face folders: loading one into (model, params), and writing one, byte for byte.

This file handles everything in a folder but its weights, which `weights.py` handles.
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

from rrft_jax.errors import UserError
from rrft_jax.hf import adapters, kinds, saving, storage, weights
from rrft_jax.hf.merged import Merged
from rrft_jax.hf.storage import Path
from rrft_jax.models import families, table
from rrft_jax.models.config import VLMConfig
from rrft_jax.models.vlm import VLM
from rrft_jax.parallel import distributed

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


def load_pretrained(
    path: Path,
    dtype: Any = None,
    *,
    compute_dtype: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    adapter: Path | None = None,
) -> tuple[VLM, dict]:
    """Load a Hugging Face folder.

    Args:
      path: the folder, on a disk or at a URL (gs://, s3://, https://); or the folder of a run,
        which stands for its export.
      dtype: the dtype of the parameters; None keeps that of the files.
      compute_dtype: the dtype of the activations; None takes that of the parameters.
      mesh: the mesh on which each parameter is laid out as the table says; None puts all
        parameters on the first device.
      adapter: the PEFT folder of a low-rank adapter, or the folder of a run that trained one; it is
        merged into the parameters.

    Returns:
      (model, params).

    Raises:
      UserError: the folder, a file or a weight is not what it should be.
    """
    path = kinds.checkpoint(path)
    config, _ = read_config(path)
    source = str(path) if storage.is_url(path) else str(on_disk(path))
    params = weights.Weights(source, config).load(dtype, mesh)
    if adapter:
        params = adapters.merge(kinds.adapter(adapter), config, params)
    if compute_dtype is None:
        compute_dtype = _common_dtype(params)
    dtypes = {"dtype": jnp.dtype(compute_dtype), "param_dtype": _common_dtype(params)}
    model = VLM(config, **dtypes, mesh=mesh, source=source)
    return model, table.unflatten(params)


def save_pretrained(
    path: Path,
    model: VLM,
    params: dict,
    source: Path | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write a Hugging Face folder: the weights in their dtype, and all other files.

    With an adapter the weights are those of `source`, with the adapter's product added to them
    (`merged.py`). The frozen weights of `params` are not read: they may have been rounded.

    All processes must call this, and the first one writes. A new folder appears whole or not at
    all. In an existing folder, files of the same names and the weights of an earlier save are
    replaced.

    Args:
      path: the folder; made if missing.
      model: the model.
      params: its parameters.
      source: the folder to copy the config, tokenizer and preprocessor files from; None takes the
        folder from which the model was loaded.
      max_shard_bytes: the largest size of a file of weights; weights above it are written as
        several files and an index.

    Raises:
      UserError: there is no source, or `path` is a file.
    """
    source = source or model.source
    if source is None:
        raise UserError(
            f"{path}: this model was not loaded from a folder; give `source`, the folder with its "
            "config and tokenizer files"
        )
    if storage.is_url(path):
        raise UserError(
            f"{path}: a model is saved to a local folder only; save it there, then copy it"
        )
    tensors = (
        Merged.open(kinds.checkpoint(source), model, params)
        if "adapter" in params
        else saving.Parameters(table.flatten(params))
    )
    source, path = on_disk(source), pathlib.Path(path).expanduser().absolute()
    _, raw = read_config(source)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, expected a folder to save the model in")
    if not distributed.is_host0():
        saving.save(None, model.config, tensors, max_shard_bytes)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # a killed process may have left it
        partial.mkdir()
        dtypes = saving.save(partial, model.config, tensors, max_shard_bytes)
        raw = _with_dtype(raw, dtypes)
        (partial / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
        for name in COPIED:
            if (source / name).exists():
                shutil.copyfile(source / name, partial / name)
        if not path.exists():
            partial.rename(path)
            return
        for stale in [
            path / weights.INDEX,
            path / weights.WEIGHTS,
            *path.glob("model-*-of-*.safetensors"),
        ]:
            stale.unlink(missing_ok=True)
        for file in partial.iterdir():
            file.replace(path / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_config(path: Path) -> tuple[VLMConfig, dict]:
    """Return the config of the model in a folder, and the whole content of `config.json`.

    Raises:
      UserError: the folder is not a checkpoint of a known family; the error says what it is.
    """
    kinds.check_folder(path, on_disk(path))
    file, where = on_disk(path) / "config.json", storage.join(path, "config.json")
    raw = storage.json_object(file.read_bytes(), where)
    config = families.read(raw, where)
    if config.vision_pad_token is None:
        tokenizer = read_json(file.with_name("tokenizer.json"))
        added = {t["content"]: t["id"] for t in tokenizer.get("added_tokens", ())}
        added |= read_json(file.with_name("added_tokens.json"))
        config = dataclasses.replace(config, vision_pad_token=added.get("<|vision_pad|>"))
    return config, raw


def on_disk(path: Path) -> pathlib.Path:
    """Return the folder itself, or for a URL a local copy of its files without the weights.

    Raises:
      UserError: the folder does not exist, or can't be read.
    """
    kinds.check_name(path)
    if storage.is_url(path):
        return storage.copied(str(path), ("config.json", *COPIED))
    folder = pathlib.Path(path).expanduser()
    if not folder.exists():
        raise UserError(
            f"{folder}: no such folder; give one that holds a {families.TITLES} checkpoint, as "
            f"{kinds.download_command('Qwen/Qwen2-VL-2B-Instruct')} makes it"
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder; give the one that holds config.json")
    return folder


def stop_tokens(path: Path) -> tuple[int, ...]:
    """Return the tokens that end a generation as the folder states them; () if it states none."""
    folder = on_disk(path)
    for name in ("generation_config.json", "config.json"):
        raw = read_json(folder / name)
        tokens = raw.get("eos_token_id", raw.get("text_config", {}).get("eos_token_id"))
        if tokens is not None:
            return tuple(tokens) if isinstance(tokens, list) else (tokens,)
    return ()


def _common_dtype(params: dict) -> jnp.dtype:
    return functools.reduce(jnp.promote_types, {p.dtype for p in jax.tree.leaves(params)})


def _with_dtype(raw: Any, dtypes: set[str]) -> Any:
    """Return a config in which every stated dtype is the dtype of the weights.

    A stated dtype stays if some weights have it. Norms in float32 beside weights in bfloat16 are
    a bfloat16 model, and transformers loads them so by default.
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


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """Return the object in a JSON file of a checkpoint folder; {} if there is no such file.

    Raises:
      UserError: the file doesn't hold a JSON object.
    """
    if not file.is_file():
        return {}
    return storage.json_object(file.read_bytes(), str(file))
