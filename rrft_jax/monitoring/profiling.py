"""A trace of some steps of a stage, for TensorBoard's or xprof's profile page.

The package does not import this module, because it imports JAX.
"""

import pathlib
from collections.abc import Iterator
from typing import Any, TypeVar

import jax

from rrft_jax.monitoring.progress import say
from rrft_jax.monitoring.span import Span

FOLDER = "profile"  # in the run's folder
Step = TypeVar("Step")


class Profile:
    """A profile of some steps of a stage; leaving the block writes what has been traced.

    with Profile(workdir, Span("grpo", 10, 12), "grpo", done=0) as profile:
        for step in profile.steps(trainer.steps()):
            ...
    """

    def __init__(self, workdir: pathlib.Path, span: Span | None, stage: str, done: int):
        """Trace nothing yet.

        Args:
          workdir: the run's folder.
          span: the steps to trace; None traces none.
          stage: the stage that runs now.
          done: the number of its steps that are done.
        """
        self._folder, self._stage, self._done = workdir / FOLDER, stage, done
        self._span = span if span and span.stage == stage else None
        self._tracing = False

    def steps(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Yield the steps, which are computed when they are asked for."""
        span, number = self._span, self._done
        while True:
            number += 1
            if span and span.first <= number <= span.last and not self._tracing:
                self._start()
            with jax.profiler.StepTraceAnnotation(self._stage, step_num=number):
                step = next(steps, None)
            if span and number == span.last:
                self._stop()
            if step is None:
                return
            yield step

    def _start(self) -> None:
        self._tracing = True
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # every Python call would slow the step, and fill the file
        jax.profiler.start_trace(self._folder, profiler_options=options)

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()
            say(
                f"profile: {self._folder}; tensorboard --logdir {self._folder.parent} shows it if "
                "the package xprof is installed"
            )

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()
