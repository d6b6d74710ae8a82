"""The rows of an unfinished evaluation, on disk batch by batch, so that it can be resumed."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rrft_jax import json_files


class Partial:
    """A growing file of predictions, `FILE.partial`; `finish` renames it to `FILE`.

    partial = Partial(pathlib.Path("predictions-id.jsonl"), passes=1)
    rows = partial.take(["a", "b"])  # None if the file doesn't have them yet
    partial.append([{"id": "a"}, {"id": "b"}])
    partial.finish()
    """

    def __init__(self, file: pathlib.Path, passes: int):
        """Read the rows of an interrupted evaluation; each sample has `passes` rows."""
        self._file, self._passes = file, passes
        self._path = file.with_name(file.name + ".partial")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        # After the last line end there is nothing, or a line that a crash has cut off.
        self._left = self._path.read_bytes().split(b"\n")[:-1]
        self._size = 0  # bytes of the rows that were taken or appended so far
        self.begun = len(self._left) // passes  # the most samples that can be taken

    def take(self, ids: Sequence[str]) -> list[dict[str, Any]] | None:
        """Return the next rows if they belong to these samples; else None, and drop the rest."""
        count = len(ids) * self._passes
        lines = self._left[:count]
        rows = [json_files.read_object(line) for line in lines]
        expected = [(name, number) for name in ids for number in range(self._passes)]
        found = [(row.get("id"), row.get("pass", 0)) for row in rows]
        if not self._left or found != expected:
            self._left = []
            return None
        self._left = self._left[count:]
        self._size += sum(len(line) + 1 for line in lines)
        return rows

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write rows after the rows that were taken or appended; delete all other rows."""
        os.truncate(self._path, self._size)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        with self._path.open("ab") as out:
            out.write(text)
        self._size += len(text)

    def finish(self) -> None:
        """Rename the complete file to its final name."""
        os.truncate(self._path, self._size)
        self._path.replace(self._file)
