"""A file of JSON lines, one object per step, that survives a crash and a resumed run."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rrft_jax import json_files


class MetricsWriter:
    """A writer of JSON lines; each line is complete on disk before the next step begins.

    writer = MetricsWriter(workdir / "metrics.jsonl")
    writer.write("sft", 1, {"loss": 2.3})  # {"stage": "sft", "step": 1, "loss": 2.3}
    """

    def __init__(self, path: str | os.PathLike, writes: bool = True):
        """Open the file; make it if missing.

        Args:
          path: the file.
          writes: False in a process that must not write, because another one writes the file.
        """
        self._path, self._writes = Path(path), writes
        if not writes:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        self._keep(lambda line: True)

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append the values of a step, NumPy's and JAX's too; NaN and inf become null."""
        if not self._writes:
            return
        line = json.dumps(
            {"stage": stage, "step": step, **_plain(values)}, ensure_ascii=False, allow_nan=False
        )
        with self._path.open("a", encoding="utf-8", errors="replace") as file:  # lone surrogates
            file.write(line + "\n")

    def values(self, stage: str, name: str) -> list[float]:
        """Return the values that a stage's steps wrote under a name, in order, without null."""
        lines = filter(None, map(_read, self._path.read_bytes().splitlines(keepends=True)))
        written = [line.get(name) for line in lines if line["stage"] == stage]
        return [value for value in written if value is not None]

    def truncate_after(self, stage: str, step: int) -> None:
        """Drop a stage's lines after the step from which it resumes; the run writes them again."""
        if self._writes:
            self._keep(lambda line: line["stage"] != stage or line["step"] <= step)

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrite the file with the wanted lines; drop a line that a crash has torn."""
        lines = self._path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if (value := _read(line)) is not None and wanted(value)]
        if kept == lines:
            return
        json_files.replace(self._path, b"".join(kept))


def _read(line: bytes) -> dict[str, Any] | None:
    """Return the object of a whole line; None for a torn one."""
    value = json_files.read_object(line) if line.endswith(b"\n") else {}
    return value if {"stage", "step"} <= value.keys() else None


def _plain(value: Any) -> Any:
    """Return the value in the types of JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays and their scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
