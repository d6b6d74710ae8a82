"""`Run`: the folder of a run as a report reads it, while the run goes on or after its end."""

import dataclasses
import pathlib
from typing import Any

from rrft_jax import json_files
from rrft_jax.errors import UserError
from rrft_jax.evaluation.results import Results
from rrft_jax.settings import Config
from rrft_jax.workdir import read_config


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as it is on the disk.

    Attributes:
      folder: its folder.
      config: its config.
      metrics: stage -> the lines of `metrics.jsonl`, in order.
      results: its evaluations so far.
    """

    folder: pathlib.Path
    config: Config
    metrics: dict[str, list[dict[str, Any]]]
    results: Results

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Run":
        """Read a run's folder.

        Raises:
          UserError: the folder holds no run, or a run that has neither a step nor a result yet.
        """
        config, metrics = read_config(folder), read_metrics(folder)
        steps = {stage: _done(metrics, stage) for stage in config.stages}
        results = Results(folder, steps, config.best_split, config.best_metric)
        evaluated = [row for name, row in results.rows.items() if name != "skipped" and row]
        if not evaluated and not metrics:
            raise UserError(f"{folder}: no results yet; they come with the run's first evaluation")
        results.deciding = results.deciding or next(iter(next(iter(evaluated), {})), "")
        return cls(folder, config, metrics, results)

    def done(self, stage: str) -> int:
        """Return the number of a stage's steps that are done."""
        return _done(self.metrics, stage)

    @property
    def rewards(self) -> list[float]:
        """The mean reward of each step of GRPO."""
        lines = self.metrics.get("grpo", ())
        return [line["reward"] for line in lines if line.get("reward") is not None]


def read_metrics(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Return stage -> the lines of `metrics.jsonl`, for the stages that have begun."""
    metrics: dict[str, list[dict[str, Any]]] = {}
    for line in json_lines(folder / "metrics.jsonl"):
        if isinstance(line.get("stage"), str) and json_files.is_number(line.get("step")):
            metrics.setdefault(line["stage"], []).append(line)
    return metrics


def _done(metrics: dict[str, list[dict[str, Any]]], stage: str) -> int:
    return metrics[stage][-1]["step"] if stage in metrics else 0


def json_lines(file: pathlib.Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; a torn line and a missing file have none."""
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [value for line in lines if line and (value := json_files.read_object(line))]
