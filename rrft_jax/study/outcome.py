"""The outcome of a study, computed from the predictions and metrics that its cells have kept.

A mean is over seeds, and its standard error comes from their spread. A difference between two
paradigms compares the same samples under the same seed first, and then takes the mean over seeds.
"""

import dataclasses
import itertools
import math
import pathlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from rrft_jax.errors import UserError
from rrft_jax.evaluation.scores import paired_gain
from rrft_jax.report.run import Run
from rrft_jax.settings import Config
from rrft_jax.study import cost
from rrft_jax.study.cost import Cost

START, FIRST_STAGE, END = "start", "sft", "end"
_PARADIGMS = ("ans_sft", "cot_sft", "reason_rft_zero", "reason_rft")  # in the order of tables


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A finished cell.

    Attributes:
      folder: its folder.
      config: its config.
      scores: (row, split) -> sample -> score; a row is START, FIRST_STAGE of two, or END.
      cost: its cost, if the study has written it.
    """

    folder: pathlib.Path
    config: Config
    scores: dict[tuple[str, str], dict[str, float]]
    cost: Cost | None

    @property
    def key(self) -> tuple[str, int, str, int]:
        """Its place in tables: task, samples, paradigm, seed."""
        config = self.config
        return config.task, config.data.samples, config.paradigm, config.seed

    @property
    def splits(self) -> list[str]:
        """The held-out splits, in the order of the run's table."""
        return list(dict.fromkeys(split for row, split in self.scores if row == END))


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
      mean: the mean.
      standard_error: by the spread of the seeds; None of a single one.
      seeds: the number of seeds.
    """

    mean: float
    standard_error: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Return the mean of one value per seed."""
        number, error = len(values), None
        if number > 1:
            error = statistics.stdev(values) / math.sqrt(number)
        return cls(math.fsum(values) / number, error, number)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The accuracy of a paradigm on a split."""

    task: str
    samples: int
    paradigm: str
    row: str
    split: str
    accuracy: Mean


@dataclasses.dataclass(frozen=True)
class Difference:
    """The gain of one paradigm over another on a split.

    Attributes:
      gain: the mean of the seeds' gains.
      sampling_error: the standard error of the gain by its spread over held-out samples.
    """

    task: str
    samples: int
    paradigm: str
    over: str
    split: str
    gain: Mean
    sampling_error: float


def read(out: pathlib.Path) -> list[Outcome]:
    """Return the finished cells in the folder of a study, in the order of tables.

    Raises:
      UserError: there is none, or a file of predictions is malformed.
    """
    folders = [file.parent for file in sorted(out.glob("*/*-*-*/table.md"))]
    found = [_read(folder) for folder in folders]
    if not found:
        raise UserError(f"{out}: no cell of a study is finished there")
    return sorted(found, key=lambda one: (one.key[:2], _order(one.key[2]), one.key[3]))


def accuracies(cells: Sequence[Outcome]) -> list[Accuracy]:
    """Return the accuracy of each paradigm at each number of samples, of all its evaluations."""
    found = []
    for (task, samples, paradigm), own in _grouped(cells):
        for row, split in dict.fromkeys(key for cell in own for key in cell.scores):
            seeds = [cell.scores[row, split] for cell in own if (row, split) in cell.scores]
            mean = Mean.of([math.fsum(seed.values()) / len(seed) for seed in seeds])
            found.append(Accuracy(task, samples, paradigm, row, split, mean))
    return found


def differences(cells: Sequence[Outcome]) -> list[Difference]:
    """Return the gain of each paradigm over each one before it, for the seeds that both have."""
    found = []
    groups = itertools.groupby(cells, key=lambda cell: cell.key[:2])
    for (task, samples), own in groups:
        by_paradigm: dict[str, dict[int, Outcome]] = {}
        for cell in own:
            by_paradigm.setdefault(cell.key[2], {})[cell.key[3]] = cell
        for over, paradigm in itertools.combinations(by_paradigm, 2):
            both = [(by_paradigm[over].get(s), cell) for s, cell in by_paradigm[paradigm].items()]
            pairs = [(before, after) for before, after in both if before]
            for split in dict.fromkeys(split for before, _ in pairs for split in before.splits):
                gains = list(_gains(pairs, split))
                if gains:
                    error = math.sqrt(math.fsum(e**2 for _, e in gains)) / len(gains)
                    mean = Mean.of([gain for gain, _ in gains])
                    found.append(Difference(task, samples, paradigm, over, split, mean, error))
    return found


def as_json(cells: Sequence[Outcome]) -> dict[str, Any]:
    """Return the outcome as `results.json` has it."""
    return {
        "accuracy": [dataclasses.asdict(one) for one in accuracies(cells)],
        "differences": [dataclasses.asdict(one) for one in differences(cells)],
        "cells": {
            f"{cell.folder.parent.name}/{cell.folder.name}": {
                "accuracy": {
                    f"{row}, {split}": math.fsum(own.values()) / len(own)
                    for (row, split), own in cell.scores.items()
                },
                "cost": dataclasses.asdict(cell.cost) if cell.cost else None,
            }
            for cell in cells
        },
    }


def _read(folder: pathlib.Path) -> Outcome:
    run = Run.read(folder)
    first, last = run.config.stages[0], run.config.stages[-1]
    rows = {START: START, first: FIRST_STAGE, last: END}  # of a single stage, its end
    scores = {}
    for row, name in rows.items():
        for split in run.results.rows.get(row, {}):
            if own := run.results.scores(row, split):
                scores[name, split] = own
    return Outcome(folder, run.config, scores, cost.read(folder))


def _grouped(cells: Sequence[Outcome]) -> Iterator[tuple[tuple[str, int, str], list[Outcome]]]:
    for key, own in itertools.groupby(cells, key=lambda cell: cell.key[:3]):
        yield key, list(own)


def _gains(pairs: Sequence[tuple[Outcome, Outcome]], split: str) -> Iterator[tuple[float, float]]:
    for before, after in pairs:
        old, new = (cell.scores.get((END, split), {}) for cell in (before, after))
        if common := [sample for sample in old if sample in new]:
            yield paired_gain([old[i] for i in common], [new[i] for i in common])


def _order(paradigm: str) -> tuple[int, str]:
    known = paradigm in _PARADIGMS
    return _PARADIGMS.index(paradigm) if known else len(_PARADIGMS), paradigm
