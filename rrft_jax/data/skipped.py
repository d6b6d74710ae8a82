"""The log of the samples that a run leaves out, with the reasons."""

import functools
import json
import pathlib
from collections.abc import Callable

from rrft_jax.data.pictures import BadSample
from rrft_jax.parallel import distributed


class SkippedLog:
    """A file of JSON lines with one line for each sample left out, however often it is met.

    Only the first process reads and writes the file.
    """

    def __init__(self, file: pathlib.Path):
        self._file, self._written = file, set()
        if distributed.is_host0() and file.exists():
            self._written.update(file.read_text(encoding="utf-8").splitlines())

    def report(self, where: str) -> Callable[[BadSample], None]:
        """Return a loader's `report`: it adds a sample under the name of a stage or a split."""
        return functools.partial(self._add, where)

    def _add(self, where: str, row: BadSample) -> None:
        if not distributed.is_host0():
            return
        line = json.dumps(
            {"where": where, "cause": row.cause, "reason": str(row)}, ensure_ascii=False
        )
        if line not in self._written:
            self._written.add(line)
            with self._file.open("a", encoding="utf-8") as out:
                out.write(line + "\n")
