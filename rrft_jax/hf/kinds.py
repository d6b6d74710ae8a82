"""The kinds of folders: the checkpoint that a run stands for, and errors for what is no checkpoint.

Each error says what the folder is.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from rrft_jax import json_files, lfs
from rrft_jax.assets import TINY
from rrft_jax.errors import UserError
from rrft_jax.hf import storage
from rrft_jax.hf.storage import Path
from rrft_jax.models import families

_HUB = re.compile(
    r"(?:hf://|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)?([\w-][\w.-]*/[\w-][\w.-]*)"
    r"(?:/tree/[^/]+)?/?"
)

# The folders in that of a run: the weights of its last step, and the adapter that it trained.
EXPORT, EXPORT_ADAPTER = "export", "export-adapter"
ADAPTER = "adapter_config.json"  # the file that makes a folder a PEFT adapter


def checkpoint(path: Path) -> Path:
    """Return the checkpoint folder that a path stands for.

    The folder of a run stands for its export, or for the model that it evaluated if it trained
    none. Any other folder stands for itself.

    Raises:
      UserError: the path is a run without an export, or a name instead of a folder.
    """
    path, settings = _opened(path)
    if settings is None:
        return path
    export = storage.join(path, EXPORT)
    if storage.read(export, "config.json") is not None:
        return export
    if not settings["stages"]:
        return checkpoint(settings.get("model", {}).get("path") or TINY)
    raise UserError(
        f"{path}: a run without {EXPORT}/, which is written when its last stage has ended; "
        f"finish it, or write what it has by python -m rrft_jax.export {path}, and give that"
    )


def adapter(path: Path) -> Path:
    """Return the PEFT folder that a path stands for: for a run, the one beside its export.

    Raises:
      UserError: the path is a run that exported no adapter, or a name instead of a folder.
    """
    path, settings = _opened(path)
    if settings is None:
        return path
    export = storage.join(path, EXPORT_ADAPTER)
    if storage.read(export, ADAPTER) is not None:
        return export
    if not settings.get("lora", {}).get("rank"):
        raise UserError(
            f"{path}: a run without an adapter (lora.rank is 0); set model.path to it, and leave "
            "model.adapter empty"
        )
    raise UserError(
        f"{path}: a run without {EXPORT_ADAPTER}/, which is written when its last stage has ended; "
        f"finish it, or write what it has by python -m rrft_jax.export {path}, and give the folder "
        "with -adapter in its name"
    )


def _opened(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """Return the folder that a path names, and the settings of the run in it; None if none is."""
    check_name(path)
    if not storage.is_url(path):
        path = pathlib.Path(path).expanduser()
    return path, _run_settings(path)


def holds_run(folder: Path) -> bool:
    """Say whether a folder, on a disk or at a URL, is that of a run."""
    return _run_settings(folder) is not None


def _run_settings(folder: Path) -> dict[str, Any] | None:
    """Return the content of a run's config.json; None for any other folder."""
    try:
        settings = json_files.read_object(storage.read(folder, "config.json") or b"")
    except OSError:
        return None  # loading the folder raises an error that names the problem
    return settings if is_run(settings) else None


def check_name(path: Path) -> None:
    """Raise UserError for a name or a page of the Hugging Face Hub, unless it is a local folder."""
    found = _HUB.fullmatch(str(path))
    if found is None or pathlib.Path(path).exists():
        return
    raise UserError(
        f"{path}: no such folder; if it is a name on the Hugging Face Hub, download it first "
        f"({download_command(found[1])}) and give that folder"
    )


def download_command(name: str) -> str:
    """Return the command that downloads a checkpoint of the Hugging Face Hub."""
    return f"hf download {name} --local-dir {name.rpartition('/')[2]}"


def check_folder(path: Path, folder: pathlib.Path) -> None:
    """Raise UserError for a folder of another kind, such as an adapter or a training checkpoint.

    Args:
      path: the folder as the user gave it.
      folder: the folder on the disk that holds its small files.
    """
    for file in [file for kind in ("json", "txt", "jinja") for file in folder.glob(f"*.{kind}")]:
        with file.open("rb") as opened:
            if (content := opened.read(200)).startswith(lfs.POINTER):
                raise UserError(f"{storage.join(path, file.name)}: {lfs.message(content)}")
    has_config = (folder / "config.json").is_file()
    if not (has_config and storage.is_url(path)):  # saves a request for most folders at a URL
        content = storage.read(path, ADAPTER)
        if content is not None:
            raise _adapter(path, storage.json_object(content, storage.join(path, ADAPTER)))
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
        f"{path}: a {kind} adapter ({ADAPTER}), not a whole model; set model.path to its base, "
        f"{base or 'which it does not name'}, and model.adapter to this folder (rrft chat BASE "
        f"--adapter={path})"
    )


def _orbax(path: Path, folder: pathlib.Path) -> UserError | None:
    """Return the error for a folder of training checkpoints: of a step, a stage or a run."""
    marks = ("_METADATA", *(f"{depth}_CHECKPOINT_METADATA" for depth in ("", "*/", "*/*/")))
    if not any(found for mark in marks for found in folder.glob(mark)):
        return None
    run, command = "RUN", ""
    for parent in folder.absolute().parents[:4]:
        if holds_run(parent):
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
