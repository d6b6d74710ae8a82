"""The files of a run's folder, read as rows while the run writes them."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from rrft_jax import json_files
from rrft_jax.json_files import is_number
from rrft_jax.monitoring.trackers.rows import Completion, Group, Groups, Scalars

Line = dict[str, Any]


class RunFiles:
    """A reader of `metrics.jsonl`, `rollouts.jsonl` and `results.json`, from their beginning.

    A row may come again: `results.json` is read as a whole, and a resumed run rewrites the others.
    """

    def __init__(self, workdir: pathlib.Path, steps: Mapping[str, int]):
        """Read nothing yet.

        Args:
          workdir: the folder of the run.
          steps: the number of steps of each stage, in order.
        """
        self._workdir, self._steps = workdir, dict(steps)
        self._metrics = _Lines(workdir / "metrics.jsonl")
        self._rollouts = _Lines(workdir / "rollouts.jsonl")
        self._done: dict[str, int] = {}  # stage -> its newest step with metrics
        self._begun: list[Line] = []  # the lines of the newest step with rollouts

    def new(self) -> Iterator[Scalars | Groups]:
        """Yield the rows that were written since the last call."""
        for line in self._metrics.new():
            stage, step = line.pop("stage"), line.pop("step")
            self._done[stage] = step
            yield Scalars(stage, step, _numbers(line))
        # The metrics of a step follow its rollouts, so these are whole now.
        for line in self._rollouts.new():
            if self._begun and _step(line) != _step(self._begun[0]):
                yield self._whole()
            self._begun.append(line)
        if self._begun:
            stage, step = _step(self._begun[0])
            if step <= self._done.get(stage, 0):
                yield self._whole()
        yield from self._evaluations()

    def _whole(self) -> Groups:
        """Return the groups of the newest step with rollouts."""
        (stage, step), groups = _step(self._begun[0]), {}
        for line in self._begun:
            groups.setdefault((line.get("id"), line["prompt"]), []).append(line)
        self._begun = []
        return Groups(f"{stage}/rollouts", step, [self._group(own) for own in groups.values()])

    def _group(self, lines: list[Line]) -> Group:
        pictures = [self._workdir / name for name in lines[0].get("pictures", ()) if name]
        return Group(
            lines[0]["prompt"],
            lines[0].get("answer", ""),
            [file for file in pictures if file.is_file()],
            [
                Completion(line["completion"], _numbers(line["rewards"]), line["advantage"])
                for line in lines
            ],
        )

    def _evaluations(self) -> Iterator[Scalars]:
        """Yield a row for each split of each evaluation, in the order of training."""
        file = self._workdir / "results.json"
        results = json_files.read_object(file.read_bytes()) if file.exists() else {}
        names = [name for name in results if name != "skipped"]
        for name in sorted(names, key=self._position):
            for split, entry in results[name].items():
                values = _numbers(entry) | {
                    f"reward_{reward}": value
                    for reward, value in _numbers(entry.get("rewards", {})).items()
                }
                yield Scalars(f"evaluation/{split}", self._position(name), values)

    def _position(self, name: str) -> int:
        """Return the steps of all stages before an evaluation: 0 for "start"."""
        stage, _, number = name.partition("@")
        stages = list(self._steps)
        if stage not in stages:
            return 0
        before = sum(self._steps[own] for own in stages[: stages.index(stage)])
        return before + int(number or self._steps[stage])


class _Lines:
    """A reader of a file of JSON lines that grows, and that may be replaced by another one."""

    def __init__(self, path: pathlib.Path):
        self._path, self._inode, self._offset = path, 0, 0

    def new(self) -> Iterator[Line]:
        """Yield the whole lines that have come; all of them if the file is another one."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._offset = inode, 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                value = json_files.read_object(line)
                if {"stage", "step"} <= value.keys():
                    yield value


def _step(line: Line) -> tuple[str, int]:
    return line["stage"], line["step"]


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if is_number(value)}
