"""The path of a data set -> the files of each split, by the names of files and folders.

train.jsonl  test.jsonl                                 a file a split
train/a.jsonl  train/b.jsonl  val/c.jsonl               a folder a split: its files are joined
data/train-00000-of-00002.parquet                       the Hub's layout: shards are joined
dataset_dict.json  train/data-00000-of-00001.arrow      as `datasets` saves on a disk
train_jsons/A3-Visual-Counting-train-35k-cot.json       the published data set of Reason-RFT
"""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rrft_jax import json_files
from rrft_jax.errors import UserError
from rrft_jax.tasks import SPLITS, TASKS, find

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow")
# JSON files beside a data set that hold none of its rows.
_ABOUT = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")
_STATE = "state.json"  # beside the files of one saved split
_FOLDERS = ("", "data", "train_jsons", "test_jsons")

# The words for a split, where a word may begin. The end of "train" is free: "trainset".
_TRAIN = re.compile("(?<![a-z])train")
_VALIDATION = re.compile("(?<![a-z])(?:val|valid|validation|dev)(?![a-z])")
_TEST = re.compile("(?<![a-z])(?:test|eval(?:uation)?(?![a-z]))")
_SAMPLE = re.compile("(?<![a-z])samples?(?![a-z])")

# "train-00000-of-00002", with the Hub's hash behind it; "part-00000-UUID"; "0000".
_SHARD = re.compile(
    r"(?P<name>.*?)[-_.]?(?P<number>\d+)"
    r"(?:[-_]of[-_](?P<total>\d+)(?:-[0-9a-f]{16})?|-[0-9a-f]{8}-.*)?"
)

Files = tuple[str, ...]


def find_splits(path: str, task: str, file: str = "") -> dict[str, Files]:
    """Return the files of each split of a task, in the order of their rows.

    Names decide: that of the file, or else that of its folder. `docs/data.md` lists the words. If a
    folder has files with the `title` of a task in their names, such as "Visual-Counting", only the
    files of this task are taken. A file without a word for a split, a sample, also serves as
    "train" and as the first held-out split where nothing else does, and so does a file that is
    given by its own path. A test file in a folder never becomes training data.

    Args:
      path: a folder or a file.
      task: a name in `tasks.TASKS`.
      file: the name of a training file of the folder, or a part of the name that no other file has.
        It replaces the task's own training file, even if its name tells another task.

    Returns:
      split -> files, in the order of SPLITS. Any split may be missing.

    Raises:
      UserError: there is nothing at the path, no file of the task, files for one split that don't
        belong together, a missing shard, or not exactly one training file of that name.
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise UserError(
            f"{path}: no such file or folder; give data.path a data set on the disk, one of the "
            "Hugging Face Hub after hf download NAME --repo-type=dataset --local-dir=DIR"
        )
    if root.is_file():
        if file:
            raise UserError(f"data.file={file}: {path} is a file; expected a folder to find it in")
        return _in_order({s: (root,) for s in ("train", _held_out(task), _named(root.stem, task))})
    files = _data_files(root)
    ours = _of_task(root, files, task)
    if file:
        ours = [found for found in ours if _split(root, found, task) not in ("", "train")]
    elif not ours:
        found = [file.name for file in files] or [f"the folder {f.name}" for f in _folders(root)]
        names = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
        raise UserError(
            f"{path}: no samples for {task}; expected a file of {', '.join(SUFFIXES)}"
            f"{f' with {find(task).title} in its name' if files else ''}, "
            f"found {names or 'none at all'}; or give the path of one file, or of one folder in it"
        )
    grouped: dict[str, list[pathlib.Path]] = {}
    for found in ours:
        grouped.setdefault(_split(root, found, task), []).append(found)
    samples = grouped.pop("", None) or [f for f in ours if _SAMPLE.search(_flat(f.stem))]
    splits = {split: _joined(root, some, split, task) for split, some in grouped.items()}
    if file:
        return _in_order(splits | {"train": _training(root, files, file, task)})
    if samples:
        joined = _joined(root, samples, "train", task)
        splits = {"train": joined, _held_out(task): joined} | splits
    return _in_order(splits)


def shown(files: Sequence[str]) -> str:
    """Return the name of a split's files for messages."""
    if len(files) == 1:
        return files[0]
    return f"{files[0]} and {len(files) - 1} more, to {pathlib.Path(files[-1]).name}"


def title_of(files: Sequence[str]) -> str:
    """Return the short name of a split's files, for the ids of rows without one."""
    file = pathlib.Path(files[0])
    shard = _SHARD.fullmatch(file.stem)
    if len(files) == 1 and not (shard and shard["total"]):
        return file.stem
    name = shard["name"] if shard else ""
    return file.parent.name if name in ("", "data", "part") or not shard else name


def _data_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of rows in a folder, and in those of its folders that hold splits."""
    folders = [root / name for name in _FOLDERS]
    saved = _saved_splits(root)
    for parent in (root, root / "data"):
        named = (
            child for child in _folders(parent) if _tells_split(child.name) or child.name in saved
        )
        folders += named
    found = {
        file: None
        for folder in folders
        if folder.is_dir()
        for file in _of_folder(folder)
        if file.suffix in SUFFIXES and file.name not in _ABOUT and file.is_file()
    }
    return list(found)


def _of_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return what may be files of rows; of a split that `datasets` saved, those that it lists.

    Its `map` leaves caches beside them, with the same rows once more.

    Raises:
      UserError: only some of the rows are meant.
    """
    state = _read(folder / _STATE)
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UserError(
            f"{folder}: a selection of its rows is saved apart from them, which is not read; call "
            "flatten_indices() of datasets, and save it again"
        )
    names = [one.get("filename") for one in state.get("_data_files") or ()]
    # Names alone, because a folder may hold many pictures too.
    held = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIXES))
    return [folder / name for name in held if not names or name in names]


def _folders(root: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders in a folder; none if it is missing."""
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:  # among many pictures faster than `iterdir`
        return sorted(pathlib.Path(entry.path) for entry in entries if entry.is_dir())


def _saved_splits(root: pathlib.Path) -> list[str]:
    """Return the splits that `datasets` saved in a folder; none if it didn't."""
    return [str(name) for name in _read(root / _ABOUT[0]).get("splits") or ()]


def _read(file: pathlib.Path) -> Mapping[str, Any]:
    """Return the object in a JSON file beside a saved data set; empty if there is none."""
    return json_files.read_object(file.read_bytes()) if file.is_file() else {}


def _of_task(
    root: pathlib.Path, files: Sequence[pathlib.Path], task: str
) -> Sequence[pathlib.Path]:
    """Return the files of a task: those with its title, or all if no name has any task's title.

    A task of the user's own takes the files of any title, if none has its own.
    """
    titles = [known.title.lower() for known in TASKS.values()]
    if not any(title in _flat(file.stem) for file in files for title in titles):
        return files
    ours = [file for file in files if find(task).title.lower() in _flat(file.stem)]
    return ours or ([] if task in TASKS else files)


def _split(root: pathlib.Path, file: pathlib.Path, task: str) -> str:
    """Return the split that the names of a file and its folders tell; empty if none does.

    A saved data set may also say that it is held out.
    """
    folders = file.relative_to(root).parts[-2::-1]
    told = next(filter(None, (_named(name, task) for name in (file.stem, *folders))), "")
    saved = _named(str(_read(file.parent / _STATE).get("_split")), task)
    return told or (saved if saved != "train" else "")


def _named(name: str, task: str) -> str:
    """Return the split that a name tells; empty if it tells none."""
    flat, known = _flat(name), find(task).splits
    if _TRAIN.search(flat):
        return "train"
    # The longest name first: "ood-left" is not "ood".
    own = sorted({*known, *SPLITS} - {"train", "validation", "test"}, key=len, reverse=True)
    if found := re.search(rf"(?<![a-z])({'|'.join(map(re.escape, own))})(?![a-z])", flat):
        return found[1]
    if _VALIDATION.search(flat):
        return "validation"
    if _TEST.search(flat):
        return "test" if "test" in known else _held_out(task)
    return ""


def _tells_split(name: str) -> bool:
    """Return whether the name of a folder tells a split."""
    return any(word.search(_flat(name)) for word in (_TRAIN, _VALIDATION, _TEST)) or (
        _flat(name) in SPLITS
    )


def _held_out(task: str) -> str:
    """Return the split of a task that a held-out file without a name of its own belongs to."""
    return next(iter(find(task).held_out), "test")


def _joined(
    root: pathlib.Path, files: Sequence[pathlib.Path], split: str, task: str
) -> tuple[pathlib.Path, ...]:
    """Return the files of one split, shards in their order.

    Raises:
      UserError: the files don't belong together, or a shard is missing.
    """
    shards = [_SHARD.fullmatch(file.stem) for file in files]
    numbered = all(shards) and len({(file.parent, file.suffix) for file in files}) == 1
    if numbered and len({(shard["name"], shard["total"]) for shard in shards}) == 1:
        numbers = [int(shard["number"]) for shard in shards]
        total = shards[0]["total"] and int(shards[0]["total"])
        if total and len(set(numbers)) < len(numbers):
            twice = next(n for n in numbers if numbers.count(n) > 1)
            raise _clash(root, [f for n, f in zip(numbers, files) if n == twice], split, task)
        if total or (len(files) > 1 and min(numbers) < 2):
            padded = any(shard["number"].startswith("0") for shard in shards)
            first = min(numbers) if total is None else int(total in numbers or not padded)
            wanted = range(first, first + total if total else max(numbers) + 1)
            for number in wanted:
                if number not in numbers:
                    raise UserError(_missing(files[0], shards[0], number, len(wanted)))
            return tuple(file for _, file in sorted(zip(numbers, files)))
    folder = files[0].parent
    if len(files) == 1 or (
        folder != root and all(f.parent == folder for f in files) and _tells_split(folder.name)
    ):
        return tuple(files)
    other = next((file for file in files if file.parent != folder), files[1])
    raise _clash(root, [files[0], other], split, task)


def _clash(root: pathlib.Path, files: Sequence[pathlib.Path], split: str, task: str) -> UserError:
    one, other, *_ = (file.relative_to(root) for file in files)
    return UserError(
        f"{root}: {one} and {other} both hold the split {split!r} of {task}; keep one of them, "
        "give its path, put them into one folder of the split's name, or call them "
        f"{split}-00000-of-00002 and so on"
    )


def _missing(file: pathlib.Path, shard: re.Match, number: int, total: int) -> str:
    start, end = shard.span("number")
    name = file.stem[:start] + str(number).zfill(end - start) + file.stem[end:] + file.suffix
    return f"{file.parent / name}: no such file; it is one of {total} shards, copy all of them"


def _training(
    root: pathlib.Path, files: Sequence[pathlib.Path], name: str, task: str
) -> tuple[pathlib.Path, ...]:
    """Return the training file named `name`, or else the only one with it in its name."""
    training = [file for file in files if _split(root, file, task) in ("", "train")]
    wanted = _flat(name)
    for suffix in SUFFIXES:
        wanted = wanted.removesuffix(suffix)
    found = [file for file in training if _flat(file.stem) == wanted]
    found = found or [file for file in training if wanted in _flat(file.stem)]
    if len(found) > 1 and all(_SHARD.fullmatch(file.stem) for file in found):
        return _joined(root, found, "train", task)
    if len(found) != 1:
        names = ", ".join(file.name for file in found or training)
        raise UserError(
            f"data.file={name}: {'several training files' if found else 'no training file'} of "
            f"that name in {root}; expected one of {names or 'none: it has no training files'}"
        )
    return tuple(found)


def _flat(name: str) -> str:
    return name.lower().replace("_", "-")


def _in_order(splits: Mapping[str, Sequence[pathlib.Path]]) -> dict[str, Files]:
    order = [*SPLITS, *(split for split in splits if split not in SPLITS)]
    return {name: tuple(map(str, splits[name])) for name in order if name and name in splits}
