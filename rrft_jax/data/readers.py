"""Files on disk -> `Example`.

A data set is a JSON file, a JSON-lines file, or a folder of such files, whose names tell the task
and the split. A record has the form of Reason-RFT, or of a chat for LLaMA-Factory:

    {"image": "a.png", "problem": "How many?", "cot": "One, two.", "answer": "2"}

    {"images": ["a.png"], "messages": [
        {"role": "user", "content": "<image>How many?"},
        {"role": "assistant", "content": "<think>One, two.</think><answer>2</answer>"}]}

    {"image": "a.png", "conversations": [
        {"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "2"}]}

`records.py` lists the other keys of a record. The "level" or the "type" of a record names the part
of its split under which results report it.

Everything but the pictures is checked here, before training. A malformed record becomes a
`BadSample`, so that the other records keep their places. The loader leaves it out and counts it,
like a record with a broken picture. A file without any well-formed record is an error.
"""

import dataclasses
import json
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator
from typing import Any

from rrft_jax.data.media import is_base64
from rrft_jax.data.options import index_base
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.records import read_record
from rrft_jax.errors import UserError
from rrft_jax.json_files import unique_ids
from rrft_jax.monitoring import say
from rrft_jax.tasks import SPLITS, find
from rrft_jax.tasks.example import Example

# The folders of JSON files in a data set, and of pictures beside a JSON file: flat or as published.
_JSON_FOLDERS = ("", "train_jsons", "test_jsons")
_IMAGE_FOLDERS = tuple(
    os.path.join(up, folder)
    for folder in ("", "images", "images/train_images", "images/test_images")
    for up in ("", "..")
)


# The longest name first: "ood-left" is not "ood".
_HELD_OUT = "|".join(map(re.escape, sorted(set(SPLITS) - {"train"}, key=len, reverse=True)))

# A scheme has two letters or more, because one letter is a drive of Windows.
_ADDRESS = re.compile(r"(data:|file:|[a-z][a-z0-9+.-]+://)(.*)", re.IGNORECASE | re.DOTALL)
_FAR = "an address on the network, which is not read; download the picture and give its path"
_INSIDE = "a picture inside of the record, which is not read; give the path of a file"


def find_splits(path: str, task: str, file: str = "") -> dict[str, str]:
    """Return the file of each split of a task.

    Names decide. A file with the task's `title` in its name, such as "Visual-Counting", belongs to
    the task. "train" marks the training split, and "-id-", "-ood-" and so on a test split; a file
    with "test" and no split's name is "id". A file with neither, a sample, also serves as "train"
    and as "id" where nothing else does, and so does a file that is given by its own path. A test
    file in a folder never becomes training data.

    Args:
      path: a folder or a file.
      task: a name in `tasks.TASKS`.
      file: the name of a training file of the folder, or a part of the name that no other file has.
        It replaces the task's own training file, even if its name tells another task.

    Returns:
      split -> file, in the order of SPLITS. "train" or "id" may be missing.

    Raises:
      UserError: there is nothing at the path, no file of the task, two files for one split, or not
        exactly one training file of that name.
    """
    root = pathlib.Path(path)
    if not root.exists():
        raise UserError(f"{path}: no such file or folder; data.path names a data set")
    if root.is_file():
        if file:
            raise UserError(f"data.file={file}: {path} is a file; expected a folder to find it in")
        return _in_order({"train": root, "id": root} | {_split(root): root})
    files = [
        found
        for folder in _JSON_FOLDERS
        for found in sorted((root / folder).glob("*.json*"))
        if found.suffix in (".json", ".jsonl") and found.is_file()
    ]
    title = find(task).title
    ours = [found for found in files if title.lower() in _flat_name(found)]
    if file:
        ours = [found for found in ours if _is_test(found)]
    elif not ours:
        names = ", ".join(file.name for file in files[:5]) + (", ..." if len(files) > 5 else "")
        raise UserError(
            f"{path}: no samples for {task}; expected a .json or .jsonl file with {title} in its "
            f"name, found {names or 'none at all'}"
        )
    splits: dict[str, pathlib.Path] = {}
    for found in ours:
        other = splits.setdefault(_split(found), found)
        if other != found:
            raise UserError(
                f"{path}: {other.name} and {found.name} both hold the split {_split(found)!r} of "
                f"{task}; keep one of them, or give its path"
            )
    if file:
        return _in_order(splits | {"train": _training_file(root, files, file)})
    samples = [found for found in ours if not re.search("train|test", _flat_name(found))]
    for found in samples[:1]:
        splits = {"train": found, "id": found} | splits
    return _in_order(splits)


def read_examples(
    path: str, task: str, split: str, image_root: str = "", file: str = ""
) -> list[Example | BadSample]:
    """Return all samples of one split, in the order of the file; `BadSample` if one is malformed.

    Ids are unique: a shared or missing id gets the record's place in the file. A picture that is
    missing, or whose path leads out of the data set (`_ImageFinder`), is no error here: the loader
    leaves its sample out and counts it.

    Args:
      path: as in `find_splits`, which finds the file of the split.
      task: a name in `tasks.TASKS`.
      split: one of SPLITS.
      image_root: the folder where the samples' picture paths start. Without it pictures are
        searched beside the JSON file, in images/, and in the image folders of the published data
        set; only then may a path be absolute and lead elsewhere.
      file: as in `find_splits`.

    Raises:
      UserError: there is no such split, no JSON, or no well-formed record.
    """
    splits = find_splits(path, task, file)
    if split not in splits:
        held = ", ".join(f"{name} ({pathlib.Path(found).name})" for name, found in splits.items())
        raise UserError(f"{path}: no {split!r} split of {task}; it has {held}")
    source = pathlib.Path(splits[split])
    if image_root and not pathlib.Path(image_root).is_dir():
        raise UserError(f"{image_root}: no such folder; data.image_root holds the pictures")
    find_image = _ImageFinder(source, image_root)
    examples: list[Example | BadSample] = []
    records = list(_records(source))
    base = index_base(records)
    for index, record in enumerate(records):
        try:
            examples.append(read_record(record, f"{source.stem}-{index}", task, find_image, base))
        except BadSample as error:
            examples.append(BadSample(error.cause, f"{source}: sample {index}: {error}"))
    if not examples:
        raise UserError(f"{source}: no samples; expected a JSON list of objects, or one a line")
    if all(isinstance(example, BadSample) for example in examples):
        raise UserError(f"no well-formed sample in {examples[0]}")
    if bad := [example for example in examples if isinstance(example, BadSample)]:
        say(f"data: {len(bad)} of {len(examples)} samples are malformed, the first: {bad[0]}")
    return _with_unique_ids(examples, source)


class _ImageFinder:
    """Find picture files; remember the last folder, so that one look per picture is enough.

    A foreign data set must not choose the files that are read on this machine. So "../../x" is
    refused, and so is an absolute path outside of image_root. Without image_root the fence is the
    folder above the folder of the JSON file, and an absolute path is trusted as the user's own. A
    symbolic link inside the fence may lead anywhere. `file://` begins an ordinary path. An address
    on the network is refused.
    """

    def __init__(self, file: pathlib.Path, image_root: str):
        self._may_be_absolute = not image_root
        if image_root:
            self._fence = os.path.abspath(image_root)
            self._folders = [self._fence]
        else:
            # The real folder, because ".." leads up from it, not from a link to it.
            folder = os.path.realpath(file.parent)
            self._fence = os.path.dirname(folder)
            self._folders = [os.path.normpath(os.path.join(folder, f)) for f in _IMAGE_FOLDERS]

    def __call__(self, name: str) -> str | BadSample:
        """Return the path of a picture, even of a missing one, or a `BadSample` if refused."""
        scheme, rest = address.groups() if (address := _ADDRESS.match(name)) else ("", "")
        if scheme.lower() == "data:" or is_base64(name):
            return BadSample("picture", f"{name:.40}...: {_INSIDE}")
        if scheme.lower() == "file:":
            host, slash, path = urllib.parse.unquote(rest).removeprefix("//").partition("/")
            name = ("" if host == "localhost" else host) + slash + path.lstrip("/")
        elif scheme:
            return BadSample("picture", f"{name:.200}: {_FAR}")
        if os.path.isabs(name) and self._may_be_absolute:
            return name
        paths = []
        for folder in self._folders:
            path = os.path.normpath(os.path.join(folder, name))  # no ".." is left in it
            if os.path.commonpath([path, self._fence]) != self._fence:
                continue
            if os.path.isfile(path):  # also False for names that no file can have
                if folder != self._folders[0]:
                    self._folders.remove(folder)
                    self._folders.insert(0, folder)
                return path
            paths.append(path)
        if not paths:
            return BadSample("picture", f"{name}: not opened, it leads out of {self._fence}")
        return paths[0]


def _with_unique_ids(
    examples: list[Example | BadSample], file: pathlib.Path
) -> list[Example | BadSample]:
    """Add a record's place in the file to an id that an earlier record has.

    A repeated id is no error: questions about one picture often share its id.
    """
    ids = [record.id if isinstance(record, Example) else None for record in examples]
    unique = unique_ids(ids)
    if repeated := sum(new != old for new, old in zip(unique, ids)):
        say(
            f"data: {file}: {repeated} samples share an earlier one's id; '#' and their index is "
            "added"
        )
    return [
        record if new == old else dataclasses.replace(record, id=new)
        for record, new, old in zip(examples, unique, ids)
    ]


def _records(file: pathlib.Path) -> Iterator[Any]:
    """Yield the JSON values of a file; a `BadSample` for a line that is not JSON.

    Raises:
      UserError: the file can't be read, or is no JSON list.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    if not text.strip():
        return
    if file.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _parse(line, number)
        return
    records = _parse(text, 1)
    if isinstance(records, BadSample):
        raise UserError(f"{file}: {records}")
    if not isinstance(records, list):
        raise UserError(f"{file}: expected a JSON list of objects, found {type(records).__name__}")
    yield from records


def _parse(text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        return BadSample("malformed", f"line {line}: not JSON: {error.msg}")
    except (RecursionError, ValueError) as error:  # too deeply nested, or a too long number
        return BadSample("malformed", f"line {first_line}: not JSON: {error}")


def _training_file(root: pathlib.Path, files: list[pathlib.Path], name: str) -> pathlib.Path:
    """Return the training file named `name`, or else the only one with it in its name."""
    training = [file for file in files if not _is_test(file)]
    wanted = name.lower().replace("_", "-").removesuffix(".jsonl").removesuffix(".json")
    found = [file for file in training if _flat_name(file) == wanted]
    found = found or [file for file in training if wanted in _flat_name(file)]
    if len(found) != 1:
        names = ", ".join(file.name for file in found or training)
        raise UserError(
            f"data.file={name}: {'several training files' if found else 'no training file'} of "
            f"that name in {root}; expected one of {names or 'none: it has no training files'}"
        )
    return found[0]


def _is_test(file: pathlib.Path) -> bool:
    name, folder = _flat_name(file), file.parent.name
    if "train" in name or folder == "train_jsons":
        return False
    return "test" in name or folder == "test_jsons"


def _split(file: pathlib.Path) -> str:
    name = _flat_name(file)
    named = re.search(rf"-({_HELD_OUT})(?![a-z])", name)
    if named and "train" not in name:
        return named[1]
    return "id" if "test" in name else "train"


def _flat_name(file: pathlib.Path) -> str:
    return file.stem.lower().replace("_", "-")


def _in_order(splits: dict[str, pathlib.Path]) -> dict[str, str]:
    return {name: str(splits[name]) for name in SPLITS if name in splits}
