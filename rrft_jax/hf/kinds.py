"""Errors for names and folders that are not a checkpoint of a whole model; each says what it is."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from rrft_jax.errors import UserError
from rrft_jax.hf import storage
from rrft_jax.hf.storage import Path
from rrft_jax.models import families

_HUB = re.compile(
    r"(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)?([\w-][\w.-]*/[\w-][\w.-]*)"
    r"(?:/tree/[^/]+)?/?"
)


def check_name(path: Path) -> None:
    """Raise UserError for a name or a page of the Hugging Face Hub, unless it is a local folder."""
    found = _HUB.fullmatch(str(path))
    if found is None or pathlib.Path(path).exists():
        return
    name = found[1]
    raise UserError(
        f"{path}: no such folder; if it is a name on the Hugging Face Hub, download it first (hf "
        f"download {name} --local-dir {name.rpartition('/')[2]}) and give that folder"
    )


def check_folder(path: Path, folder: pathlib.Path) -> None:
    """Raise UserError for a folder of another kind, such as an adapter or a training checkpoint.

    Args:
      path: the folder as the user gave it.
      folder: the folder on the disk that holds its small files.
    """
    for file in [file for kind in ("json", "txt", "jinja") for file in folder.glob(f"*.{kind}")]:
        with file.open("rb") as opened:
            if (content := opened.read(200)).startswith(storage.POINTER):
                raise UserError(f"{storage.join(path, file.name)}: {storage.pointer(content)}")
    has_config = (folder / "config.json").is_file()
    if not (has_config and storage.is_url(path)):  # saves a request for most folders at a URL
        adapter = storage.read(path, "adapter_config.json")
        if adapter is not None:
            raise _adapter(path, storage.json_object(adapter, f"{path}/adapter_config.json"))
    if has_config:
        return
    if (error := _orbax(path, folder)) is not None:
        raise error
    if file := next(iter(sorted(folder.glob("*.gguf"))), None):
        raise UserError(
            f"{path}: {file.name} is a model for llama.cpp (GGUF), which is not read; "
            "download the checkpoint that it was made from, in safetensors"
        )
    others = [*folder.glob("*/config.json"), *folder.glob("snapshots/*/config.json")]
    others = sorted(other.parent for other in others)
    raise UserError(
        f"{storage.join(path, 'config.json')}: no such file; expected the folder of a "
        f"{families.TITLES} checkpoint" + (f", such as {others[-1]}" if others else "")
    )


def _adapter(path: Path, settings: Mapping[str, Any]) -> UserError:
    kind, base = settings.get("peft_type", "LORA"), settings.get("base_model_name_or_path")
    return UserError(
        f"{path}: a {kind} adapter of {base or 'another model'} (adapter_config.json), not a whole "
        "model; merge it into that first (merge_and_unload and save_pretrained of peft) and give "
        "the merged folder"
    )


def _orbax(path: Path, folder: pathlib.Path) -> UserError | None:
    """Return the error for a folder of training checkpoints: of a step, a stage or a run."""
    marks = ("_METADATA", *(f"{depth}_CHECKPOINT_METADATA" for depth in ("", "*/", "*/*/")))
    if not any(found for mark in marks for found in folder.glob(mark)):
        return None
    run, command = "RUN", ""
    for parent in folder.absolute().parents[:4]:
        if is_run(_read(parent / "config.json")):
            _, *parts = folder.absolute().relative_to(parent).parts
            run = parent
            command = "".join(f" --{k}={v}" for k, v in zip(("stage", "step"), parts))
            break
    return UserError(
        f"{path}: checkpoints of a run's training (orbax), not a Hugging Face folder; write one by "
        f"python -m rrft_jax.export {run}{command}, and give that"
    )


def is_run(settings: Any) -> bool:
    """Say whether the content of a config.json is that of a run of this project."""
    return isinstance(settings, dict) and "stages" in settings


def _read(file: pathlib.Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
