"""Files on disk -> `Example`.

`files.py` finds the files of a split, `rows.py` reads their rows, `records.py` makes an example of
a row. The examples of JSON files are made at the start. Those of tables and of large files, which
may hold pictures, are made when they are asked for.

A malformed row becomes a `BadSample`, so that the other rows keep their places. The loader leaves
it out and counts it, like a row with a broken picture. A file without any well-formed row is an
error.
"""

import dataclasses
import os
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rrft_jax.data import columns as user_columns
from rrft_jax.data import options
from rrft_jax.data.files import Files, find_splits, shown, title_of
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.records import read_record
from rrft_jax.data.rows import Rows
from rrft_jax.errors import UserError
from rrft_jax.json_files import unique_ids
from rrft_jax.monitoring import say
from rrft_jax.tasks.example import Example

# The folders of pictures beside a file of rows: flat, or as published.
_IMAGE_FOLDERS = tuple(
    os.path.join(up, folder)
    for folder in ("", "images", "images/train_images", "images/test_images")
    for up in ("", "..")
)
_FIRST = 100  # rows that are looked at before a run, if they are read when asked for

# A scheme has two letters or more, because one letter is a drive of Windows.
_ADDRESS = re.compile(r"(data:|file:|[a-z][a-z0-9+.-]+://)(.*)", re.IGNORECASE | re.DOTALL)
_FAR = "an address on the network, which is not read; download the picture and give its path"
_INSIDE = "a data: address without base64, which is not read; give base64, or the path of a file"


def read_examples(
    path: str,
    task: str,
    split: str,
    image_root: str = "",
    file: str = "",
    columns: Mapping[str, str] | None = None,
) -> Sequence[Example | BadSample]:
    """Return all samples of one split, in the order of the file; `BadSample` if one is malformed.

    Ids are unique: a shared or missing id gets the record's place in the file. A picture that is
    missing, or whose path leads out of the data set (`_ImageFinder`), is no error here: the loader
    leaves its sample out and counts it.

    Args:
      path: as in `find_splits`, which finds the files of the split.
      task: a name in `tasks.TASKS`.
      split: one of SPLITS.
      image_root: the folder where the samples' picture paths start. Without it pictures are
        searched beside the file, in images/, and in the image folders of the published data set;
        only then may a path be absolute and lead elsewhere.
      file: as in `find_splits`.
      columns: part of a sample -> column, as in `data.columns`.

    Returns:
      A list, or for tables and large files `Examples`.

    Raises:
      UserError: there is no such split, a file can't be read, no row has a mapped column, or there
        is no well-formed row.
    """
    splits, columns = find_splits(path, task, file), columns or {}
    user_columns.check(columns)
    if split not in splits:
        held = ", ".join(f"{name} ({pathlib.Path(f[0]).name})" for name, f in splits.items())
        raise UserError(f"{path}: no {split!r} split of {task}; it has {held}")
    if image_root and not pathlib.Path(image_root).is_dir():
        raise UserError(f"{image_root}: no such folder; data.image_root holds the pictures")
    files = splits[split]
    rows = Rows(files)
    if not len(rows):
        raise UserError(
            f"{shown(files)}: no samples; expected a JSON list of objects, one a line, or a table"
        )
    first = range(min(len(rows), _FIRST) if rows.lazy else len(rows))
    user_columns.check_found(columns, map(rows.__getitem__, first))
    find_image = _ImageFinder(pathlib.Path(files[0]), image_root)
    base = _index_base(rows, columns)
    reading = _Reading(rows, title_of(files), task, find_image, columns, base)
    examples = [reading(index) for index in first]
    bad = [example for example in examples if isinstance(example, BadSample)]
    if len(bad) == len(examples):
        raise UserError(f"no well-formed sample in {bad[0]}")
    if bad:
        many = f"{len(bad)} of {'the first ' if len(first) < len(rows) else ''}{len(examples)}"
        say(f"data: {many} samples are malformed, the first: {bad[0]}")
    if rows.lazy:
        return Examples(reading, range(len(rows)), _new_ids(_ids(reading), files))
    new = _new_ids([getattr(example, "id", None) for example in examples], files)
    for index, name in new.items():
        examples[index] = dataclasses.replace(examples[index], id=name)
    return examples


@dataclasses.dataclass(frozen=True)
class _Reading:
    """The rows of a split, and how to make examples of them."""

    rows: Rows
    title: str  # the start of the ids of rows without one
    task: str
    find_image: Callable[[str], Any]
    columns: Mapping[str, str]
    index_base: int | None

    def __call__(self, index: int) -> Example | BadSample:
        """Return the example of a row."""
        name, how = f"{self.title}-{index}", (self.task, self.find_image, self.index_base)
        try:
            return read_record(self.rows[index], name, *how, self.columns)
        except BadSample as error:
            return BadSample(error.cause, f"{self.rows.where(index)}: {error}")


@dataclasses.dataclass(frozen=True)
class Examples(Sequence[Example | BadSample]):
    """Examples that are each made when they are asked for. A slice is an `Examples` too."""

    reading: _Reading
    numbers: range  # of the rows
    new_ids: Mapping[int, str]  # number of a row that shares an earlier one's id -> its own id

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return dataclasses.replace(self, numbers=self.numbers[index])
        number = self.numbers[index]
        example = self.reading(number)
        if number in self.new_ids and isinstance(example, Example):
            return dataclasses.replace(example, id=self.new_ids[number])
        return example


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
        if scheme.lower() == "data:":
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
                    # A new list, because threads share this one.
                    self._folders = [folder, *(f for f in self._folders if f != folder)]
                return path
            paths.append(path)
        if not paths:
            return BadSample("picture", f"{name}: not opened, it leads out of {self._fence}")
        return paths[0]


def _new_ids(ids: Sequence[str | None], files: Files) -> dict[int, str]:
    """Return the new ids of the rows whose id an earlier row has; their number is added.

    A repeated id is no error: questions about one picture often share its id.
    """
    unique = unique_ids(ids)
    new = {number: name for number, (name, old) in enumerate(zip(unique, ids)) if name != old}
    if new:
        say(
            f"data: {shown(files)}: {len(new)} samples share an earlier one's id; '#' and their "
            "index is added"
        )
    return new


def _ids(reading: _Reading) -> list[str]:
    """Return the ids of rows; none if no row has one. Of tables nothing else is read."""
    column, found = reading.columns.get("id", "id"), []
    names = (column, column.partition(".")[0])
    for number, row in enumerate(reading.rows.some(names) if reading.rows.may_have(names) else ()):
        values = user_columns.look_up(row, column) if isinstance(row, Mapping) else []
        missing = not values or values[0] in (None, "")
        found.append(f"{reading.title}-{number}" if missing else str(values[0]))
    return found


def _index_base(rows: Rows, columns: Mapping[str, str]) -> int | None:
    """Return the index of the first option in the files, as `options.index_base`."""
    wanted = (*options.KEYS, "answer", "solution", *columns.values())
    wanted = {name for column in wanted for name in (column, column.partition(".")[0])}
    if not rows.may_have((*options.KEYS, columns.get("options", ""))):
        return None
    some = (row for row in rows.some(wanted) if isinstance(row, dict))
    return options.index_base(user_columns.apply(row, columns)[0] for row in some)
