"""The rows of an evaluation that is under way, on disk batch by batch, and taken up again."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rrft_jax import json_files


class Partial:
    """A file of predictions that grows; beside the finished one until it is that one.

    partial = Partial(pathlib.Path("predictions-id.jsonl"), passes=1)
    rows = partial.take(["a", "b"])  # None: they're not there yet
    partial.append([{"id": "a"}, {"id": "b"}])
    partial.finish()
    """

    def __init__(self, file: pathlib.Path, passes: int):
        """Reads what an interrupted evaluation left; `passes` rows belong to each sample."""
        self._file, self._passes = file, passes
        self._path = file.with_name(file.name + ".partial")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        # Behind the last line end there's nothing, or a line that a crash tore.
        self._left = self._path.read_bytes().split(b"\n")[:-1]
        self._size = 0  # bytes of the rows that were taken or appended
        self.begun = len(self._left) // passes  # samples that are there, at most

    def take(self, ids: Sequence[str]) -> list[dict[str, Any]] | None:
        """The next rows, if they are those of these samples; else None, and no row is left."""
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
        """Writes rows behind those that were taken or appended; whatever else was there goes."""
        os.truncate(self._path, self._size)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        with self._path.open("ab") as out:
            out.write(text)
        self._size += len(text)

    def finish(self) -> None:
        """All rows are there: the file takes its own name."""
        os.truncate(self._path, self._size)
        self._path.replace(self._file)
