"""The folder of a run: its owner, and its config.json."""

import concurrent.futures
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrft_jax import json_files
from rrft_jax.errors import UserError
from rrft_jax.fields import Free, every, flat, plain
from rrft_jax.hf import kinds, storage
from rrft_jax.monitoring import say
from rrft_jax.renamed import RENAMED
from rrft_jax.settings import Config, make

EXPORT, EXPORT_BEST = kinds.EXPORT, "export-best"
# The blocks that `fingerprint` reads of a file: enough to tell any two trainings apart.
_BLOCKS, _BLOCK_BYTES = 64, 4096
# The fields that decide in which words a sample is asked. So do paradigms without tags.
_WORDS = ("task", "data.prompts", "data.system_prompt", "data.variant", "custom.instruction")
_WITHOUT_TAGS = {"ans_sft", "zero_shot"}
_OWN = ("weights", "branch_from")  # keys of config.json beside the fields


def claim(
    config: Config, workdir: pathlib.Path, weights: str, branch_from: str | None = None
) -> None:
    """Write config.json, or check that the folder's run has the same config and weights.

    The folder is made if missing. See `agreed` for the arguments.

    Raises:
      UserError: the folder holds another run, or can't hold a run.
    """
    content = agreed(config, workdir, weights, branch_from)
    if content is None:
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", content)
    except OSError as error:
        raise _unfit(workdir, error) from None


def agreed(
    config: Config, workdir: pathlib.Path, weights: str, branch_from: str | None = None
) -> dict[str, Any] | None:
    """Return what config.json has to hold from now on; None if it holds that already.

    A resumed run may change the fields that are marked as free in `settings.py`. The changes
    are printed.

    Args:
      config: the config of the run.
      workdir: the folder of the run, which may be missing.
      weights: the `fingerprint` of the checkpoint that the run starts from. Half-done work in the
        folder belongs to these weights, and the files at a path can change.
      branch_from: the checkpoint of another run that a new run begins at.

    Raises:
      UserError: the folder holds another run, or can't hold a run.
    """
    file = workdir / "config.json"
    mine = json.loads(json.dumps(plain(config))) | {"weights": weights}
    if branch_from:
        mine["branch_from"] = branch_from
    if not file.exists():
        return mine
    try:
        theirs = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise _unfit(workdir, error) from None
    if not kinds.is_run(theirs):
        raise UserError(f"{file}: not the config of a run; give another --workdir")
    if theirs.get("weights") != weights:
        raise UserError(
            f"{workdir} holds a run of other weights: the checkpoint that it started from has "
            "changed since; give another --workdir, or delete that one"
        )
    changes = differences(theirs, mine)
    if not changes:
        return None
    for change in changes:
        _check_change(change, workdir, theirs["stages"])
    say(f"{workdir} resumes with {', '.join(map(str, changes))}")
    return {**mine, **{key: theirs[key] for key in _OWN if key in theirs}}


def _unfit(workdir: pathlib.Path, error: Exception) -> UserError:
    return UserError(f"{workdir}: can't hold a run ({error}); give another --workdir")


def read_config(run: pathlib.Path) -> Config:
    """Return the config of a run that is in a folder.

    Raises:
      UserError: the folder holds no run.
    """
    return make({key: value for key, value in read(run).items() if key not in _OWN})


def read(run: pathlib.Path) -> dict[str, Any]:
    """Return the config.json of a run, its fields by their names of today.

    Raises:
      UserError: the folder holds no run.
    """
    values = storage.json_object(storage.read(run, "config.json") or b"{}", f"{run}/config.json")
    if not kinds.is_run(values):
        raise UserError(f"{run}: not the folder of a run; expected one with the run's config.json")
    return _renamed(values)


def stage_folder(workdir: pathlib.Path, stage: str) -> pathlib.Path:
    """Return the folder of a stage's checkpoints; it holds one folder per step."""
    return workdir / "checkpoints" / stage


def saved_steps(workdir: pathlib.Path, stages: Sequence[str]) -> dict[str, list[int]]:
    """Return stage -> the steps after which it was saved, in order, for the stages that have any.

    It makes no folder.
    """
    found = {}
    for stage in stages:
        folder = stage_folder(workdir, stage)
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        if steps := sorted(int(name) for name in names if name.isdecimal()):
            found[stage] = steps
    return found


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


@dataclasses.dataclass(frozen=True)
class Change:
    """A field whose value in a folder's config.json is another one; None if it has none."""

    key: str
    old: Any
    new: Any

    @property
    def free(self) -> Free | None:
        """The field's mark."""
        return next((found.free for found in every(Config) if found.key == self.key), None)

    def __str__(self) -> str:
        remark = self.free.consequence if self.free else ""
        return f"{self.key}={self.new} instead of {self.old}" + (f" ({remark})" if remark else "")


def differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[Change]:
    """Return the fields that differ between two contents of a config.json.

    A field that an older release did not have counts as its default.
    """
    defaults = json.loads(json.dumps({found.key: found.default for found in every(Config)}))
    old, new = (
        flat({key: value for key, value in values.items() if key not in _OWN})
        for values in (_renamed(theirs), json.loads(json.dumps(mine)))
    )
    old = {key: defaults[key] for key in new if key in defaults} | old
    return [
        Change(key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def other_words(config: Config) -> str:
    """Return a line about the words in which a run's model is asked, if it was trained in others.

    The line is empty if the config's model is none of a run.
    """
    path = config.model.adapter or config.model.path
    theirs = json_files.read_object((storage.read(path, "config.json") if path else None) or b"")
    if not kinds.is_run(theirs):
        return ""
    changes = [
        change
        for change in differences(theirs, plain(config))
        if change.key in _WORDS
        or (change.key == "paradigm" and {change.old, change.new} & _WITHOUT_TAGS)
    ]
    if not changes:
        return ""
    return (
        f"warning: {path} was asked in other words than here: {', '.join(map(str, changes))}; "
        "--config=FILE:task=...,paradigm=... chooses the task and the paradigm"
    )


def _check_change(change: Change, workdir: pathlib.Path, stages: Sequence[str]) -> None:
    """Raise UserError if a run that has begun can't resume with a change."""
    what = f"{change.key} is {change.old!r} there and {change.new!r} here"
    cure = "give another --workdir"
    own = change.key.startswith("lora.") or change.key == "model.adapter"
    if saved_steps(workdir, stages) and not own:  # a branch goes on in the adapter of that run
        cure += f", with --branch_from={workdir} to begin at a checkpoint of that run"
    if change.free is None:
        raise UserError(f"{workdir} holds a run of another config: {what}; {cure}")
    if change.free.only_more:
        if not 0 < change.old < change.new:
            raise UserError(f"{workdir} holds a run that can only grow: {what}; {cure}")
        stage = change.key.partition(".")[0]
        if later := saved_steps(workdir, stages[stages.index(stage) + 1 :]):
            raise UserError(
                f"{workdir} holds a run whose {next(iter(later))} has begun at the end of {stage}: "
                f"{what}; {cure}"
            )


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a config.json with the fields' names of today."""
    values = dict(values)
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        if name in values.get(section, {}):
            values[section] = dict(values[section])
            values[section][new.partition(".")[2]] = values[section].pop(name)
    return values
