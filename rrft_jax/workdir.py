"""The folder of a run: its owner, and its config.json."""

import concurrent.futures
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from rrft_jax import json_files
from rrft_jax.errors import UserError
from rrft_jax.fields import plain
from rrft_jax.hf import kinds, storage
from rrft_jax.renamed import RENAMED
from rrft_jax.settings import Config, make

EXPORT, EXPORT_BEST = kinds.EXPORT, "export-best"
# The blocks that `fingerprint` reads of a file: enough to tell any two trainings apart.
_BLOCKS, _BLOCK_BYTES = 64, 4096


def claim(config: Config, workdir: pathlib.Path, weights: str) -> None:
    """Write config.json, or check that the folder's run has the same config and weights.

    Args:
      config: the config of the run.
      workdir: the folder of the run; made if missing.
      weights: the `fingerprint` of the checkpoint that the run starts from. Half-done work in the
        folder belongs to these weights, and the files at a path can change.

    Raises:
      UserError: the folder holds another run, or can't hold a run.
    """
    file = workdir / "config.json"
    mine = json.loads(json.dumps(plain(config))) | {"weights": weights}
    try:
        if not file.exists():
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(file, mine)
            return
        theirs, mine = _flat(json.loads(file.read_text())), _flat(mine)
        theirs = {RENAMED.get(key, key): value for key, value in theirs.items()}
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir}: can't hold a run ({error}); give another --workdir") from None
    for key in sorted(theirs.keys() | mine.keys()):
        if theirs.get(key) == mine.get(key):
            continue
        if key == "weights":
            raise UserError(
                f"{workdir} holds a run of other weights: the checkpoint that it started from has "
                "changed since; give another --workdir, or delete that one"
            )
        raise UserError(
            f"{workdir} holds a run of another config: {key} is {theirs.get(key)!r} there and "
            f"{mine.get(key)!r} here; give another --workdir, or delete that one"
        )


def read_config(run: pathlib.Path) -> Config:
    """Return the config of a run that is in a folder.

    Raises:
      UserError: the folder holds no run.
    """
    values = storage.json_object(storage.read(run, "config.json") or b"{}", f"{run}/config.json")
    if not kinds.is_run(values):
        raise UserError(f"{run}: not the folder of a run; expected one with the run's config.json")
    values.pop("weights", None)
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        if name in values.get(section, {}):
            values[section][new.partition(".")[2]] = values[section].pop(name)
    return make(values)


def fingerprint(folder: storage.Path, sizes: Mapping[str, int]) -> str:
    """Return a short hash of the names, sizes and samples of a checkpoint's files of weights.

    A copy of the folder on another machine has the same hash. At most 256 KiB of each file are
    read.

    Args:
      folder: the folder of the checkpoint, on a disk or at a URL.
      sizes: the size in bytes of each file of weights, by its name.
    """
    digest = hashlib.blake2b(digest_size=8)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for name, size in sorted(sizes.items()):
            digest.update(f"{name} {size}\n".encode())
            file = storage.File(folder, name)
            begins = [block * size // _BLOCKS for block in range(_BLOCKS)]
            ends = [min(begin + _BLOCK_BYTES, size) for begin in begins]
            for block in pool.map(file.read, begins, ends):
                digest.update(block)
    return digest.hexdigest()


def write_json(file: pathlib.Path, value: Any) -> None:
    """Write a value to a JSON file, which is whole at every moment."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    json_files.replace(file, text.encode())


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    items = {}
    for key, value in tree.items():
        items |= _flat(value, f"{path}.{key}" if path else key)
    return items
