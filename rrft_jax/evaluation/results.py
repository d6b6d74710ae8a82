"""`results.json` of a run: the outcome of its evaluations, and the best step of each stage.

A stage with evaluations between its steps has rows "grpo@20", "grpo@40", and "grpo" for its end.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from rrft_jax.data import Loader
from rrft_jax.evaluation import best, predictions
from rrft_jax.evaluation.rewarding import REWARD
from rrft_jax.hf.kinds import EXPORT, EXPORT_ADAPTER
from rrft_jax.monitoring import say
from rrft_jax.parallel import distributed
from rrft_jax.settings import Config
from rrft_jax.workdir import write_json


def shown_name(config: Config, name: str) -> str:
    """Return the name of a row for people: "start" of a run without training is its model."""
    if name != "start" or config.stages:
        return name
    path = config.model.adapter or config.model.path
    parts = [part for part in path.rstrip("/").split("/") if part not in (EXPORT, EXPORT_ADAPTER)]
    return parts[-1] if parts and parts[-1] else config.model.name


class Results:
    """The results of a run. Every change is written to `results.json` at once.

    Only the first process reads and writes the file, because a shared disk may show other machines
    an older state.

    Attributes:
      rows: {name: {split: entry}}, and under "skipped" the samples that training left out.
      steps: the number of steps of each stage, in order.
      deciding: the split that decides which step is the best; "" if nothing is evaluated.
      metric: the measure that decides, as in `best.measure`.
    """

    def __init__(
        self, workdir: pathlib.Path, steps: Mapping[str, int], deciding: str, metric: str = ""
    ):
        """Read the results that an earlier run of the same config has left.

        Args:
          workdir: the run's folder.
          steps: the number of steps of each stage, in order.
          deciding: the split that decides which step is the best.
          metric: the measure that decides, as in `best.measure`.
        """
        self._workdir, self._file, self.steps = workdir, workdir / "results.json", dict(steps)
        self.deciding, self.metric = deciding, metric
        self.rows: dict[str, Any] = distributed.on_host0(self._read)

    def has(self, name: str, split: str) -> bool:
        """Return whether a split was evaluated under a name."""
        return split in self.rows.get(name, {})

    def add(self, name: str, split: str, entry: Mapping[str, Any]) -> None:
        """Add the outcome of an evaluation."""
        self.rows.setdefault(name, {})[split] = entry
        self._write()

    def note_skipped(self, stage: str, loader: Loader) -> None:
        """Add the samples that a stage of training has left out, counted by cause."""
        if not loader.skipped:
            return
        seen = loader.used + loader.skipped.total()
        skipped = self.rows.setdefault("skipped", {})
        skipped[stage] = {"seen": seen, "causes": dict(loader.skipped)}
        self._write()
        causes = ", ".join(f"{cause} {count}" for cause, count in loader.skipped.items())
        say(
            f"{stage}: skipped {loader.skipped.total():,} of {seen:,} samples seen ({causes}); "
            f"{self._workdir / 'skipped.jsonl'} says which and why"
        )

    def forget_after(self, stage: str, step: int) -> None:
        """Drop the evaluations of a stage after the step that it continues from.

        There are such evaluations if a damaged checkpoint was left out, or if the stage has more
        steps than before. They will be made again.
        """
        last = self.steps[stage]
        begun = [folder.name for folder in self._workdir.glob(f"evaluations/{stage}@*")]
        for name in sorted({stage, *self.rows, *begun}):
            own, _, number = name.partition("@")
            if own != stage or int(number or last) <= step:
                continue
            if self.rows.get(name):
                say(f"{stage}: the evaluation {name} is repeated")
                self.rows[name] = {}  # keeps its place in the order of rows
                self._write()
            if distributed.is_host0():
                whole = self.predictions(name, "*")
                for file in whole.parent.glob(f"{whole.name}.partial"):
                    file.unlink()

    def best_step(self, stage: str) -> int | None:
        """Return the step of a stage with the best evaluation so far; None before the first."""
        return best.best_step(self.rows, stage, self.steps[stage], self.deciding, self.metric)

    def deciding_value(self, name: str) -> str:
        """Return the measure that decides, of one row, in words: "50.0 %", "reward 0.512"."""
        entry = self.rows[name][self.deciding]
        value = best.measure(entry, self.metric)
        if self.metric == "accuracy" or (not self.metric and "accuracy" in entry):
            return f"{100 * value:.1f} %"
        return f"{self.metric or REWARD} {value:.3f}"

    def better_steps(self) -> dict[str, int]:
        """Return stage -> its best step, for the stages whose last step is not their best."""
        steps = {stage: self.best_step(stage) for stage in self.steps}
        return {stage: n for stage, n in steps.items() if n is not None and n < self.steps[stage]}

    def predictions(self, name: str, split: str) -> pathlib.Path:
        """Return the file of an evaluation; the last stage's file is in the run's folder itself."""
        last = list(self.steps)[-1] if self.steps else "start"
        folder = self._workdir if name == last else self._workdir / "evaluations" / name
        return folder / f"predictions-{split.replace('/', '-')}.jsonl"

    def scores(self, name: str, split: str) -> dict[str, float]:
        """Return sample -> its score in an evaluation."""
        return predictions.sample_scores(predictions.read(self.predictions(name, split)))

    def rewards(self, name: str, split: str) -> dict[str, dict[str, float]]:
        """Return reward -> sample -> its value in an evaluation."""
        return predictions.sample_rewards(predictions.read(self.predictions(name, split)))

    def _read(self) -> dict[str, Any]:
        return json.loads(self._file.read_text()) if self._file.exists() else {}

    def _write(self) -> None:
        if distributed.is_host0():
            write_json(self._file, self.rows)
