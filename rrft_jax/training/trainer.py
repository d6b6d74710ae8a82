"""One stage of training, from its newest checkpoint to its last step."""

import dataclasses
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from rrft_jax.data import Batch, Loader, Prefetch
from rrft_jax.errors import UserError
from rrft_jax.monitoring import compilations, say, waiting
from rrft_jax.training.checkpoints import Checkpoints
from rrft_jax.training.state import TrainState


class Algorithm(Protocol):
    """A training algorithm: `SFT` or `GRPO`.

    Attributes:
      stage: the name of its stage.
      state: the state to start from.
      base: the frozen parameters beside those of the state (`tuning.py`).
    """

    stage: str
    state: TrainState
    base: dict[str, Any]

    def place(self, batch: Batch) -> Any:
        """Return the arrays of a batch that a step needs, on the mesh."""

    def step(
        self, state: TrainState, batches: Iterator[tuple[Batch, Any]], number: int
    ) -> tuple[TrainState, dict[str, Any], Iterable[dict[str, Any]]]:
        """Run a step. Return (the state after it, metrics, rollouts to show)."""


@dataclasses.dataclass(frozen=True)
class Step:
    """The result of one step.

    Attributes:
      number: the number of the step, from 1.
      last: True for the stage's last step.
      state: the state after the step. The next step consumes it.
      position: the loader's position after the step's batches.
      metrics: the values for `metrics.jsonl`.
      rollouts: some of the step's completions, for `rollouts.jsonl`.
      finite: True if all trained weights are finite numbers.
    """

    number: int
    last: bool
    state: TrainState
    position: dict[str, Any]
    metrics: dict[str, Any]
    rollouts: Iterable[dict[str, Any]]
    finite: bool


class Trainer:
    """A loop that runs an algorithm on batches, from the newest checkpoint of its stage.

    Attributes:
      state: the newest state.
      done: the number of steps that led to it.
    """

    def __init__(self, algorithm: Algorithm, loader: Loader, folder: pathlib.Path, steps: int):
        """Restore the newest checkpoint, if there is one.

        Args:
          algorithm: the algorithm; without a checkpoint the stage starts from its state.
          loader: the batches; the loader is moved past the batches that the checkpoint has seen.
          folder: the folder of the stage's checkpoints.
          steps: the number of steps of the whole stage.

        Raises:
          UserError: the checkpoint is of another model or optimizer, or none is complete.
        """
        self._algorithm, self._loader, self._folder, self._steps = algorithm, loader, folder, steps
        self._checkpoints = Checkpoints(folder)
        self.state, self.done = algorithm.state, self._checkpoints.latest or 0
        if self.done:
            with waiting(f"{algorithm.stage}: restoring step {self.done}"):
                self.state, position = self._checkpoints.restore(self.state)
            self.done = self._checkpoints.latest
            loader.set_state(position)
            say(f"{algorithm.stage}: resumes after step {self.done} of {steps}")

    @property
    def params(self) -> dict[str, Any]:
        """The newest parameters, the frozen ones too."""
        return {**self._algorithm.base, **self.state.params}

    def steps(self) -> Iterator[Step]:
        """Run the steps that are left; yield the result of each one."""
        algorithm, programs_before = self._algorithm, compilations.total("step")
        batches = Prefetch(self._loader, algorithm.place)
        first = f"{algorithm.stage}: the first step, which compiles its programs"
        for number in range(self.done + 1, self._steps + 1):
            began = time.perf_counter()
            with waiting(first):
                self.state, metrics, rollouts = algorithm.step(self.state, batches, number)
            first = ""
            metrics |= {
                "seconds_step": time.perf_counter() - began,
                "skipped_samples": sum(batches.position["skipped"].values()),
                "compilations": compilations.total(),
            }
            finite, self.done = metrics.pop("finite_weights") == 1, number
            last = number == self._steps
            yield Step(number, last, self.state, batches.position, metrics, rollouts, finite)
            if last:
                programs = compilations.total("step") - programs_before
                say(f"{algorithm.stage}: step programs: {programs}")
        self._loader.set_state(batches.position)  # excludes the batch read ahead, unused

    def check(self, step: Step) -> None:
        """Refuse a step with a metric or weight that isn't finite, so that it is not saved.

        Raises:
          UserError: a number isn't finite. The message names the step, the metric and the last good
            checkpoint, which is kept.
        """
        stage, metrics = self._algorithm.stage, step.metrics
        names = dict.fromkeys(("loss", "gradient_norm", *metrics))  # the most telling come first
        broken = [name for name in names if not np.isfinite(metrics[name])]
        if broken:
            problem = f"{broken[0]} is {float(metrics[broken[0]])}"
        elif not step.finite:
            problem = "the updated weights are not all finite numbers"
        else:
            return
        kept = "no checkpoint of this stage was saved before"
        if self._checkpoints.latest is not None:
            kept = f"the last good checkpoint is {self._folder / str(self._checkpoints.latest)}"
        raise UserError(
            f"{stage}, step {step.number}: {problem}; {kept}. Lower {stage}.learning_rate or "
            f"{stage}.clip_norm, raise {stage}.warmup_steps, and give another --workdir"
        )

    def save(self, step: Step, best: int | None) -> None:
        """Save a step's state; delete older ones except the previous one and step `best`."""
        with waiting(f"{self._algorithm.stage}: saving step {step.number}"):
            self._checkpoints.save(step.number, step.state, step.position, best)

    def close(self) -> None:
        self._checkpoints.close()
