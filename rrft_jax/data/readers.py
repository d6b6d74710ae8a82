"""Files on disk -> `Example`.

A data set is a JSON file, a JSON-lines file, or a folder whose files say in their names which task
and which split they hold. A row is Reason-RFT's, or a chat as LLaMA-Factory reads it:

    {"image": "a.png", "problem": "How many?", "cot": "One, two.", "answer": "2"}

    {"images": ["a.png"], "messages": [
        {"role": "user", "content": "<image>How many?"},
        {"role": "assistant", "content": "<think>One, two.</think><answer>2</answer>"}]}

    {"image": "a.png", "conversations": [
        {"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "2"}]}

A "level" or a "type" of a row names the part of its split that it is reported with.

Everything about a row but its pictures is checked here, at once. A malformed one is a `BadRow` in
its place, so that the others keep theirs; the loader leaves it out and counts it, as it does a row
whose picture is broken. A file without a single well-formed row is an error.
"""

import collections
import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from rrft_jax.data.example import Example
from rrft_jax.data.pictures import BadRow
from rrft_jax.errors import UserError
from rrft_jax.monitoring import say
from rrft_jax.rewards.transformation import parse_calls

SPLITS = ("train", "id", "ood", "ood-left", "ood-right")

# Where JSON files may lie in a folder, and pictures beside a JSON file: flat, or as published.
_JSON_FOLDERS = ("", "train_jsons", "test_jsons")
_IMAGE_FOLDERS = tuple(
    os.path.join(up, folder)
    for folder in ("", "images", "images/train_images", "images/test_images")
    for up in ("", "..")
)

# The two spellings of a chat: who speaks, what is said, and the names of the two who do.
_CHATS = {
    "messages": ("role", "content", "user", "assistant"),
    "conversations": ("from", "value", "human", "gpt"),
}


def find_splits(path: str, task: str, file: str = "") -> dict[str, str]:
    """Which file holds which split of a task.

    Names decide: "Visual-Counting" and so on is the task, "train" the training split, "-id-",
    "-ood-", "-ood-left-" or "-ood-right-" a test split; a file with "test" and none of these is
    "id". A file that is neither "train" nor "test", a sample, also serves as "train" and as "id"
    where nothing else does, and so does a file that is given by its own path. A test file in a
    folder never becomes training data.

    Args:
      path: a folder or a file.
      task: such as "visual_counting".
      file: the name of a training file of the folder, or a part that no other one's name has: it
        takes the place of the task's own training file, whatever its name says of the task.

    Returns:
      split -> file, in the order of SPLITS. "train" or "id" may be missing.

    Raises:
      UserError: nothing there, no file of the task, two files for one split, or no single training
        file of that name.
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
    ours = [found for found in files if task.replace("_", "-") in _flat_name(found)]
    if file:
        ours = [found for found in ours if _is_test(found)]
    elif not ours:
        title = task.replace("_", "-").title()
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
) -> list[Example | BadRow]:
    """All samples of one split, in the order of the file, a `BadRow` in a malformed one's place.

    Ids are unique: where rows share one, or have none, their place in the file tells them apart.
    A picture that is missing, or whose path leads out of the data set (`_ImageFinder`), is no
    error here: the loader leaves its sample out and counts it.

    Args:
      path: as in `find_splits`, which tells the file that a split comes from.
      task: such as "visual_counting".
      split: one of SPLITS.
      image_root: the folder that the samples' picture paths start from. Without it they are looked
        for beside the JSON file, in images/, and in the published data set's image folders; and
        only without it may a path be an absolute one to somewhere else.
      file: as in `find_splits`.

    Raises:
      UserError: no such split, not JSON, or no row that is well-formed; says where.
    """
    splits = find_splits(path, task, file)
    if split not in splits:
        held = ", ".join(f"{name} ({pathlib.Path(found).name})" for name, found in splits.items())
        raise UserError(f"{path}: no {split!r} split of {task}; it has {held}")
    source = pathlib.Path(splits[split])
    if image_root and not pathlib.Path(image_root).is_dir():
        raise UserError(f"{image_root}: no such folder; data.image_root holds the pictures")
    find_image = _ImageFinder(source, image_root)
    examples: list[Example | BadRow] = []
    for index, row in enumerate(_rows(source)):
        try:
            examples.append(_example(row, f"{source.stem}-{index}", task, find_image))
        except BadRow as error:
            examples.append(BadRow(error.cause, f"{source}: sample {index}: {error}"))
    if not examples:
        raise UserError(f"{source}: no samples; expected a JSON list of objects, or one a line")
    if all(isinstance(example, BadRow) for example in examples):
        raise UserError(f"no well-formed sample in {examples[0]}")
    if bad := [example for example in examples if isinstance(example, BadRow)]:
        say(f"data: {len(bad)} of {len(examples)} samples are malformed, the first: {bad[0]}")
    return _with_unique_ids(examples, source)


class _ImageFinder:
    """Finds picture files; remembers the last folder, so that big files cost a look each.

    A data set that came from elsewhere must not choose what is read on this machine: "../../x" is
    refused, and so is an absolute path that does not lie under image_root. Without image_root the
    fence is the folder above the JSON file's, where pictures are looked for too, and an absolute
    path is taken for the user's own. A symbolic link inside the fence may lead anywhere.
    """

    def __init__(self, file: pathlib.Path, image_root: str):
        self._may_be_absolute = not image_root
        if image_root:
            self._fence = os.path.abspath(image_root)
            self._folders = [self._fence]
        else:
            # The real folder, because ".." leads up from there and not from a link to it.
            folder = os.path.realpath(file.parent)
            self._fence = os.path.dirname(folder)
            self._folders = [os.path.normpath(os.path.join(folder, f)) for f in _IMAGE_FOLDERS]

    def __call__(self, name: str) -> str | BadRow:
        """The picture's path, whether there is such a file or not; a `BadRow` if it's refused."""
        if os.path.isabs(name) and self._may_be_absolute:
            return name
        paths = []
        for folder in self._folders:
            path = os.path.normpath(os.path.join(folder, name))  # no ".." is left in it
            if os.path.commonpath([path, self._fence]) != self._fence:
                continue
            if os.path.isfile(path):  # False too for names that no file can have.
                if folder != self._folders[0]:
                    self._folders.remove(folder)
                    self._folders.insert(0, folder)
                return path
            paths.append(path)
        if not paths:
            return BadRow("picture", f"{name}: not opened, it leads out of {self._fence}")
        return paths[0]


def _with_unique_ids(
    examples: list[Example | BadRow], file: pathlib.Path
) -> list[Example | BadRow]:
    """Adds a row's place in the file to an id that an earlier row has, so that results tell whose.

    Not an error: questions about one picture often share its id.
    """
    ids = collections.Counter(row.id for row in examples if isinstance(row, Example))
    repeated = ids.total() - len(ids)
    if not repeated:
        return examples
    seen = set()
    unique = []
    for index, example in enumerate(examples):
        if isinstance(example, BadRow):
            unique.append(example)
            continue
        name = example.id
        while name in seen or (name != example.id and name in ids):
            name = f"{name}#{index}"
        seen.add(name)
        unique.append(dataclasses.replace(example, id=name))
    say(f"data: {file}: {repeated} samples share an earlier one's id; '#' and their index is added")
    return unique


def _rows(file: pathlib.Path) -> Iterator[Any]:
    """The JSON values of a file; a `BadRow` for a line of JSON lines that is none.

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
    rows = _parse(text, 1)
    if isinstance(rows, BadRow):
        raise UserError(f"{file}: {rows}")
    if not isinstance(rows, list):
        raise UserError(f"{file}: expected a JSON list of objects, found {type(rows).__name__}")
    yield from rows


def _parse(text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        return BadRow("malformed", f"line {line}: not JSON: {error.msg}")
    except (RecursionError, ValueError) as error:  # Nested without end, or a number without end.
        return BadRow("malformed", f"line {first_line}: not JSON: {error}")


def _example(row: Any, default_id: str, task: str, find_image: _ImageFinder) -> Example:
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, dict):
        raise _malformed(f"expected an object, found {type(row).__name__}")
    names = _image_names(row)
    form = next((key for key in _CHATS if row.get(key) is not None), None)
    if form and row.get("problem") is None:
        row = row | _read_chat(row, form, len(names))
    problem = row.get("problem")
    if not isinstance(problem, str) or not problem.strip():
        raise _malformed(
            "no question; expected a text as 'problem', or a chat as 'messages' or 'conversations'"
        )
    answer = row.get("answer") if row.get("answer") is not None else row.get("solution")
    if not isinstance(answer, str) and not _is_number(answer):
        raise _malformed("no answer; expected a text as 'answer' or 'solution'")
    answer = str(answer).strip()
    if tagged := re.fullmatch(r"<answer>(.*)</answer>", answer, re.DOTALL):
        answer = tagged[1].strip()
    if not answer:
        raise _malformed("the answer is empty; expected a text as 'answer' or 'solution'")
    if task == "spatial_transformation" and not parse_calls(answer):  # nothing could be right
        raise _malformed(f"the answer is {answer!r:.60}; expected calls, func(object_id, 'value')")
    cot = row.get("cot")
    if cot is not None and not isinstance(cot, str):
        raise _malformed(f"'cot' is {type(cot).__name__}; expected a text")
    name = default_id if row.get("id") in (None, "") else row["id"]
    if not isinstance(name, str) and not _is_number(name):
        raise _malformed(f"'id' is {name!r:.60}; expected a text or a number")
    part = _part(row)
    for text in (str(name), problem, answer, cot or "", part):
        try:
            text.encode()
        except UnicodeEncodeError:  # Half a surrogate pair, which JSON can spell.
            raise _malformed(f"a text that is not Unicode: {text!r:.60}") from None
    return Example(
        id=str(name),
        images=tuple(find_image(picture) for picture in names),
        problem=problem,
        answer=answer,
        cot=cot or None,
        task=task,
        part=part,
    )


def _part(row: dict[str, Any]) -> str:
    """What a row is grouped by in the results: its "level" or "type", if it has one."""
    for key in ("level", "type"):
        value = row.get(key)
        if _is_number(value) or (isinstance(value, str) and value.strip()):
            return " ".join([key, *str(value).split()])
    return ""


def _read_chat(row: dict[str, Any], form: str, pictures: int) -> dict[str, Any]:
    """The question, the thought and the answer of a chat. What its system prompt says is not used.

    Without tags the whole reply is the answer. A text outside of the tags is an error, and so are
    further turns: nothing here learns from them, and to leave them out would change the sample.
    """
    speaker, said, asks, replies = _CHATS[form]
    turns = row[form] if isinstance(row[form], list) else []
    well_formed = all(isinstance(t, dict) and isinstance(t.get(said), str) for t in turns)
    turns = [turn for turn in turns if well_formed and turn.get(speaker) != "system"]
    if [turn.get(speaker) for turn in turns] != [asks, replies]:
        raise _malformed(
            f"{form!r} is no chat of two; expected a list of "
            f"{{{speaker!r}: {asks!r}, {said!r}: text}} and then the same of {replies!r}"
        )
    question, reply = (turn[said].strip() for turn in turns)
    placeholders = question.count("<image>")
    if placeholders not in (0, pictures):
        raise _malformed(
            f"{placeholders} <image> in the question for {pictures} pictures; expected "
            "as many, or none"
        )
    thought, answer = "", reply
    if reply.startswith("<think>"):
        thought, _, answer = reply.removeprefix("<think>").partition("</think>")
    answer = answer.strip()
    if answer.startswith("<answer>") and answer.endswith("</answer>"):
        answer = answer.removeprefix("<answer>").removesuffix("</answer>").strip()
    if not answer or re.search("</?(think|answer)>", thought + answer):
        raise _malformed(
            f"the reply of {replies!r} is {reply!r:.60}; expected "
            "<think>thought</think><answer>answer</answer>, or the answer alone"
        )
    problem = question.replace("<image>", "").strip()
    return {"problem": problem, "cot": thought.strip(), "answer": answer}


def _malformed(message: str) -> BadRow:
    return BadRow("malformed", message)


def _is_number(value: Any) -> bool:
    """Whether JSON meant a number: not true, and not the NaN that other tools write for nothing."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _image_names(row: dict[str, Any]) -> list[str]:
    given = [row.get(key) for key in ("image", "images")]
    images = next((value for value in given if value not in (None, "", [])), [])
    names = []
    for image in images if isinstance(images, list) else [images]:
        name = image.get("path") if isinstance(image, dict) else image
        if not isinstance(name, str) or not name:
            raise _malformed(f"a picture is {image!r:.60}; expected a path")
        names.append(name)
    return names


def _training_file(root: pathlib.Path, files: list[pathlib.Path], name: str) -> pathlib.Path:
    """The one training file that is called `name`, or that alone has it in its name."""
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
    named = re.search(r"-(id|ood(-left|-right)?)(?![a-z])", name)
    if named and "train" not in name:
        return named[1]
    return "id" if "test" in name else "train"


def _flat_name(file: pathlib.Path) -> str:
    return file.stem.lower().replace("_", "-")


def _in_order(splits: dict[str, pathlib.Path]) -> dict[str, str]:
    return {name: str(splits[name]) for name in SPLITS if name in splits}
