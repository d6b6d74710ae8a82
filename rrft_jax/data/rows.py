"""The files of one split -> its rows under consecutive numbers, as JSON values.

Text files hold a JSON list, or an object a line; they are read whole. The rows of tables are read
when they are asked for.
"""

import bisect
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rrft_jax.data.pictures import BadSample
from rrft_jax.data.tables import Table, is_table
from rrft_jax.errors import UserError


class Rows(Sequence[Any]):
    """The rows of several files in their order; a line that is no JSON is a `BadSample`."""

    def __init__(self, files: Sequence[str]):
        """Open the files.

        Raises:
          UserError: a file can't be read, or is no list of rows.
        """
        self.files = tuple(files)
        self._parts = [Table(file) if is_table(file) else _texts(file) for file in files]
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
        """Whether rows are read when they are asked for, because they may hold pictures."""
        return any(isinstance(part, Table) for part in self._parts)

    @property
    def columns(self) -> list[str]:
        """The columns that any table has; texts have none of their own."""
        parts = [part.columns for part in self._parts if isinstance(part, Table)]
        return list(dict.fromkeys(itertools.chain.from_iterable(parts)))

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


def _texts(file: str) -> list[Any]:
    """Return the JSON values of a file, a list or one a line.

    Raises:
      UserError: the file can't be read, or is neither.
    """
    try:
        text = pathlib.Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    if not text.strip():
        return []
    lines = file.endswith((".jsonl", ".ndjson")) or _is_lines(text)
    rows = None if lines and not text.lstrip().startswith("[") else _parse(text, 1)
    if lines and not isinstance(rows, list):
        numbered = enumerate(text.split("\n"), 1)
        return [_parse(line, number) for number, line in numbered if line.strip()]
    if isinstance(rows, BadSample):
        raise UserError(f"{file}: {rows}")
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
