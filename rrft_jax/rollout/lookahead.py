"""Compilation of the sampler's next programs, while the present one runs.

The loop of a batch goes from state to state: to a smaller batch, or to a longer cache. The programs
of both are compiled as soon as a state is known, and then those of the states that follow. So once
they are all there, no step meets a program that is new.
"""

from collections.abc import Callable, Hashable
from typing import Any, Protocol, runtime_checkable

import jax

from rrft_jax.parallel import ahead
from rrft_jax.parallel.ahead import Ahead

Run = Callable[..., Any]


@runtime_checkable
class Moves(Protocol):
    """The sampler's `Loop`."""

    def moves(self, state: Any) -> list[str]:
        """Return the ways to go on from a state."""

    def move(self, name: str, state: Any, *, run: Run) -> Any:
        """Return the state behind a move; `run` compiles the programs in between."""

    def compile(self, weights: dict, state: Any, sampling: Any) -> None:
        """Compile the programs that run in a state."""


def call(program: Callable, *args: Any) -> Any:
    """Call a program."""
    return program(*args)


class Lookahead:
    """The sampler's part of the compilation ahead."""

    def __init__(self, threads: Ahead):
        """Compile in these threads."""
        self._threads = threads

    def begin(self, loop: Moves, weights: dict, state: Any, sampling: Any) -> None:
        """Begin to compile the programs that may follow.

        Args:
          loop: the moves of the batch.
          weights: the result of `VLM.decoding_weights`.
          state: the state whose program is about to run.
          sampling: temperature, top-k and top-p.
        """
        moves = [move for move in loop.moves(state) if not self._threads.knows(_name(state, move))]
        if not moves:
            return
        weights, state = ahead.shapes(weights), ahead.shapes(state)

        def compile(move: str) -> None:
            new = loop.move(move, state, run=ahead.result)
            loop.compile(weights, new, sampling)
            self.begin(loop, weights, new, sampling)

        for move in moves:
            self._threads.begin(_name(state, move), lambda move=move: compile(move))

    def finish(self, state: Any, move: str) -> None:
        """Wait for the programs of a move if they are being compiled."""
        self._threads.finish(_name(state, move), "the sampler's next programs")


def _name(state: Any, move: str) -> Hashable:
    leaves, structure = jax.tree.flatten(state)
    return move, structure, tuple(x.shape for x in leaves)
