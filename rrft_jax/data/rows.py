"""The files of one split -> its rows under consecutive numbers, as JSON values.

Text files hold a JSON list, or an object a line; they are read whole. The rows of tables, and the
lines of large files, are read when they are asked for, because they may hold pictures.
"""

import array
import bisect
import contextlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rrft_jax import lfs
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.tables import Table, is_table
from rrft_jax.errors import UserError

_LARGE_BYTES = 64 << 20  # lines of a larger file are read when they are asked for


class Rows(Sequence[Any]):
    """The rows of several files in their order; a line that is no JSON is a `BadSample`."""

    def __init__(self, files: Sequence[str]):
        """Open the files.

        Raises:
          UserError: a file can't be read, or is no list of rows.
        """
        self.files = tuple(files)
        self._parts = [_open(file) for file in files]
        self._ends = list(itertools.accumulate(map(len, self._parts)))

    def __reduce__(self) -> tuple:
        return Rows, (self.files,)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        k, own = self._place(index)
        return self._parts[k][own]

    @property
    def lazy(self) -> bool:
        """Whether rows are read when they are asked for."""
        return any(isinstance(part, Table | _Lines) for part in self._parts)

    def may_have(self, columns: Iterable[str]) -> bool:
        """Return whether a row may have one of these columns; only tables can tell."""
        names = set(columns)
        return any(not isinstance(p, Table) or names & {*p.columns} for p in self._parts)

    def where(self, index: int) -> str:
        """Return the file and the number of a row, for messages."""
        k, own = self._place(index)
        return f"{self.files[k]}: sample {own}"

    def some(self, columns: Iterable[str]) -> Iterator[Any]:
        """Yield all rows, with at least the given columns; of tables with no others."""
        names = list(columns)
        for part in self._parts:
            yield from part.some(names) if isinstance(part, Table) else part

    def _place(self, index: int) -> tuple[int, int]:
        k = bisect.bisect_right(self._ends, index)
        return k, index - (self._ends[k - 1] if k else 0)


class _Lines(Sequence[Any]):
    """The JSON values of a file, one a line; threads may share it."""

    def __init__(self, file: str):
        self._descriptor = os.open(file, os.O_RDONLY)
        self._starts, self._numbers = array.array("q"), array.array("q")
        place = 0
        with open(file, "rb") as opened:
            for number, line in enumerate(opened, 1):
                if line.strip():
                    self._starts.append(place)
                    self._numbers.append(number)
                place += len(line)
        self._starts.append(place)

    def __del__(self):
        os.close(self._descriptor)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Any:
        number = self._numbers[index]
        start, end = self._starts[index : index + 2]
        try:
            text = os.pread(self._descriptor, end - start, start).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return BadSample("malformed", f"line {number}: not UTF-8: {error.reason}")
        return _parse(text, number)


def _open(file: str) -> Sequence[Any]:
    with contextlib.suppress(OSError), open(file, "rb") as opened:
        if (content := opened.read(200)).startswith(lfs.POINTER):
            raise UserError(f"{file}: {lfs.message(content)}")
    if is_table(file):
        return Table(file)
    if os.path.getsize(file) > _LARGE_BYTES and _has_lines(file):
        return _Lines(file)
    return _texts(file)


def _has_lines(file: str) -> bool:
    with open(file, "rb") as opened:
        first = opened.readline().decode("utf-8-sig", errors="replace")
    return file.endswith((".jsonl", ".ndjson")) or isinstance(_parse(first, 1), dict)


def _texts(file: str) -> list[Any]:
    """Return the JSON values of a file, a list or one a line.

    Raises:
      UserError: the file can't be read, or is neither.
    """
    try:
        text = pathlib.Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: cannot be read as UTF-8 text: {error}; save it as UTF-8, and unpack it if it "
            "is compressed"
        ) from None
    if not text.strip():
        return []
    lines = file.endswith((".jsonl", ".ndjson")) or _is_lines(text)
    rows = None if lines and not text.lstrip().startswith("[") else _parse(text, 1)
    if lines and not isinstance(rows, list):
        numbered = enumerate(text.split("\n"), 1)
        return [_parse(line, number) for number, line in numbered if line.strip()]
    if isinstance(rows, BadSample):
        raise UserError(f"{file}: {rows}; expected JSON, an object a line, parquet or Arrow")
    if isinstance(rows, dict):
        return [rows]
    if not isinstance(rows, list):
        raise UserError(
            f"{file}: expected a JSON list of objects, or an object a line, found "
            f"{type(rows).__name__}"
        )
    return rows


def _is_lines(text: str) -> bool:
    """Return whether a text holds an object a line: its first line is whole, and there are more."""
    first, _, rest = text.strip().partition("\n")
    return bool(rest) and isinstance(_parse(first, 1), dict)


def _parse(text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        return BadSample("malformed", f"line {line}: not JSON: {error.msg}")
    except (RecursionError, ValueError) as error:  # too deeply nested, or a too long number
        return BadSample("malformed", f"line {first_line}: not JSON: {error}")
