"""One stage of training: from its newest checkpoint to its last step."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from rrft_jax.data import Batch, Loader, Prefetch
from rrft_jax.errors import UserError
from rrft_jax.monitoring import compilations, say
from rrft_jax.training.checkpoints import Checkpoints
from rrft_jax.training.state import TrainState


class Algorithm(Protocol):
    """A way to learn: `SFT` or `GRPO`.

    Attributes:
      stage: its name.
      state: the state to start from.
    """

    stage: str
    state: TrainState

    def place(self, batch: Batch) -> Any:
        """The arrays of a batch that a step needs, on the mesh."""

    def step(
        self, state: TrainState, batches: Iterator[tuple[Batch, Any]], number: int
    ) -> tuple[TrainState, dict[str, Any], Iterable[dict[str, Any]]]:
        """(the state after, which replaces the one before; metrics; rollouts to show)."""


@dataclasses.dataclass(frozen=True)
class Step:
    """The result of one step.

    Attributes:
      number: of the step, from 1.
      last: whether it is the stage's last one.
      state: after the step. The next step consumes it.
      position: of the loader, behind the step's batches.
      metrics: for `metrics.jsonl`.
      rollouts: some of the step's completions, for `rollouts.jsonl`.
      finite: whether all trained weights are finite numbers.
    """

    number: int
    last: bool
    state: TrainState
    position: dict[str, Any]
    metrics: dict[str, Any]
    rollouts: Iterable[dict[str, Any]]
    finite: bool


class Trainer:
    """Runs an algorithm on batches, behind the newest checkpoint of its stage.

    Attributes:
      state: the newest state.
      done: how many steps are behind it.
    """

    def __init__(self, algorithm: Algorithm, loader: Loader, folder: pathlib.Path, steps: int):
        """Restores the newest checkpoint, where there is one.

        Args:
          algorithm: whose state is the start where there is no checkpoint.
          loader: its batches; it is left behind those that the checkpoint had seen.
          folder: of the stage's checkpoints.
          steps: of the whole stage.

        Raises:
          UserError: the checkpoint is of another model or optimizer, or none is whole.
        """
        self._algorithm, self._loader, self._folder, self._steps = algorithm, loader, folder, steps
        self._checkpoints = Checkpoints(folder)
        self.state, self.done = algorithm.state, self._checkpoints.latest or 0
        if self.done:
            self.state, position = self._checkpoints.restore(self.state)
            self.done = self._checkpoints.latest
            loader.set_state(position)
            say(f"{algorithm.stage}: goes on after step {self.done} of {steps}")

    def steps(self) -> Iterator[Step]:
        """Runs the steps that are left, one each time the next is asked for."""
        algorithm, compiled_before = self._algorithm, compilations.total("step")
        batches = Prefetch(self._loader, algorithm.place)
        for number in range(self.done + 1, self._steps + 1):
            self.state, metrics, rollouts = algorithm.step(self.state, batches, number)
            metrics |= {
                "skipped_samples": sum(batches.position["skipped"].values()),
                "compilations": compilations.total(),
            }
            finite, self.done = metrics.pop("finite_weights") == 1, number
            last = number == self._steps
            yield Step(number, last, self.state, batches.position, metrics, rollouts, finite)
            if last:
                compiled = compilations.total("step") - compiled_before
                say(f"{algorithm.stage}: step programs compiled: {compiled}")
        self._loader.set_state(batches.position)  # a batch that was read ahead is not used up

    def check(self, step: Step) -> None:
        """Ends the run at the first step with a number that isn't finite, before it is saved.

        Raises:
          UserError: names the step, the metric and the last good checkpoint, which is kept.
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
        """Saves a step's state, and drops older ones but for the one before and step `best`."""
        self._checkpoints.save(step.number, step.state, step.position, best)

    def close(self) -> None:
        self._checkpoints.close()
