"""Reason-RFT files on disk -> `Example`.

A data set is a JSON file, a JSON-lines file, or a folder whose files say in their names which task
and which split they hold. Everything about a row but its pictures is checked here, at once, so that
a mistake shows before anything is compiled; pictures are opened by the loader.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from rrft_jax.data.example import Example
from rrft_jax.errors import UserError

SPLITS = ("train", "id", "ood", "ood-left", "ood-right")

# Where JSON files may lie in a folder, and pictures beside a JSON file: flat, or as published.
_JSON_FOLDERS = ("", "train_jsons", "test_jsons")
_IMAGE_FOLDERS = tuple(
    pathlib.Path(up, folder)
    for folder in ("", "images", "images/train_images", "images/test_images")
    for up in ("", "..")
)


def find_splits(path: str, task: str) -> dict[str, str]:
    """Which file holds which split of a task.

    Names decide: "Visual-Counting" and so on is the task, "train" the training split, "-id-",
    "-ood-", "-ood-left-" or "-ood-right-" a test split; a file with "test" and none of these is
    "id". A file that is neither "train" nor "test", a sample, also serves as "train" and as "id"
    where nothing else does, and so does a file that is given by its own path. A test file in a
    folder never becomes training data.

    Args:
      path: a folder or a file.
      task: such as "visual_counting".

    Returns:
      split -> file, in the order of SPLITS. "train" or "id" may be missing.

    Raises:
      UserError: nothing there, no file of the task, or two files for one split.
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise UserError(f"{path}: no such file or folder; data.path names a data set")
    if root.is_file():
        return _in_order({"train": root, "id": root} | {_split(root): root})
    files = [
        file
        for folder in _JSON_FOLDERS
        for file in sorted((root / folder).glob("*.json*"))
        if file.suffix in (".json", ".jsonl")
    ]
    ours = [file for file in files if task.replace("_", "-") in _flat_name(file)]
    if not ours:
        title = task.replace("_", "-").title()
        names = ", ".join(file.name for file in files[:5]) + (", ..." if len(files) > 5 else "")
        raise UserError(
            f"{path}: no samples for {task}; expected a .json or .jsonl file with {title} in its "
            f"name, found {names or 'none at all'}"
        )
    splits: dict[str, pathlib.Path] = {}
    for file in ours:
        other = splits.setdefault(_split(file), file)
        if other != file:
            raise UserError(
                f"{path}: {other.name} and {file.name} both hold the split {_split(file)!r} of "
                f"{task}; keep one of them, or give its path"
            )
    samples = [file for file in ours if not re.search("train|test", _flat_name(file))]
    for file in samples[:1]:
        splits = {"train": file, "id": file} | splits
    return _in_order(splits)


def read_examples(path: str, task: str, split: str, image_root: str = "") -> list[Example]:
    """All samples of one split, in the order of the file.

    Args:
      path: as in `find_splits`, which tells the file that a split comes from.
      task: such as "visual_counting".
      split: one of SPLITS.
      image_root: the folder that the samples' picture paths start from. Without it they are looked
        for beside the JSON file, in images/, and in the published data set's image folders.

    Raises:
      UserError: no such split, not JSON, or a row that lacks something; says where.
    """
    splits = find_splits(path, task)
    if split not in splits:
        held = ", ".join(f"{name} ({pathlib.Path(file).name})" for name, file in splits.items())
        raise UserError(f"{path}: no {split!r} split of {task}; it has {held}")
    file = pathlib.Path(splits[split])
    if image_root and not pathlib.Path(image_root).is_dir():
        raise UserError(f"{image_root}: no such folder; data.image_root holds the pictures")
    find_image = _ImageFinder(file, image_root)
    examples = [
        _example(row, f"{file}: sample {index}", f"{file.stem}-{index}", task, find_image)
        for index, row in _rows(file)
    ]
    if not examples:
        raise UserError(f"{file}: no samples; expected a JSON list of objects, or one a line")
    return examples


class _ImageFinder:
    """Finds picture files; remembers the last folder, so that big files cost a look each."""

    def __init__(self, file: pathlib.Path, image_root: str):
        folders = [pathlib.Path(image_root)] if image_root else []
        self._folders = folders or [file.parent / folder for folder in _IMAGE_FOLDERS]

    def __call__(self, name: str) -> str:
        for folder in self._folders:
            if os.path.isfile(folder / name):  # False too for names that no file can have.
                if folder != self._folders[0]:
                    self._folders.remove(folder)
                    self._folders.insert(0, folder)
                return str(folder / name)
        # Not an error yet: the loader leaves the sample out and counts it.
        return str(self._folders[0] / name)


def _rows(file: pathlib.Path) -> Iterator[tuple[int, Any]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    if file.suffix == ".jsonl":
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        for index, (number, line) in enumerate(lines):
            yield index, _parse(line, file, number)
        return
    rows = _parse(text, file, 1)
    if not isinstance(rows, list):
        raise UserError(f"{file}: expected a JSON list of objects, found {type(rows).__name__}")
    yield from enumerate(rows)


def _parse(text: str, file: pathlib.Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{file}: line {line}: not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # Nested without end, or a number without end.
        raise UserError(f"{file}: line {first_line}: not JSON: {error}") from None


def _example(row: Any, where: str, default_id: str, task: str, find_image: _ImageFinder) -> Example:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object, found {type(row).__name__}")
    problem = row.get("problem")
    if not isinstance(problem, str) or not problem.strip():
        raise UserError(f"{where}: no question; expected a text as 'problem'")
    answer = row.get("answer") if row.get("answer") is not None else row.get("solution")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise UserError(f"{where}: no answer; expected a text as 'answer' or 'solution'")
    answer = str(answer).strip()
    if tagged := re.fullmatch(r"<answer>(.*)</answer>", answer, re.DOTALL):
        answer = tagged[1].strip()
    if not answer:
        raise UserError(f"{where}: the answer is empty; expected a text as 'answer' or 'solution'")
    cot = row.get("cot")
    if cot is not None and not isinstance(cot, str):
        raise UserError(f"{where}: 'cot' is {type(cot).__name__}; expected a text")
    return Example(
        id=default_id if row.get("id") is None else str(row["id"]),
        images=tuple(find_image(name) for name in _image_names(row, where)),
        problem=problem,
        answer=answer,
        cot=cot or None,
        task=task,
    )


def _image_names(row: dict[str, Any], where: str) -> list[str]:
    images = row.get("image") or row.get("images") or []
    names = []
    for image in images if isinstance(images, list) else [images]:
        name = image.get("path") if isinstance(image, dict) else image
        if not isinstance(name, str) or not name:
            raise UserError(f"{where}: a picture is {image!r:.60}; expected a path")
        names.append(name)
    return names


def _split(file: pathlib.Path) -> str:
    name = _flat_name(file)
    named = re.search(r"-(id|ood(-left|-right)?)(?![a-z])", name)
    if named and "train" not in name:
        return named[1]
    return "id" if "test" in name else "train"


def _flat_name(file: pathlib.Path) -> str:
    return file.stem.lower().replace("_", "-")


def _in_order(splits: dict[str, pathlib.Path]) -> dict[str, str]:
    return {name: str(splits[name]) for name in SPLITS if name in splits}
