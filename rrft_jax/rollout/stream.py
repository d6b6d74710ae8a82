"""Sampling of a stream of batches: the next prompts take the rows that have become free.

`generate` samples a batch until its longest completion ends. Its batches shrink, but every decoding
step still reads all weights, and an accelerator needs most of a step's time for this. So here the
rows stay full, until the stream ends:

    batch by batch                       stream
    row 0   aaaa....cccccc......         row 0   aaaaccccccgggg
    row 1   bbbbbbbbdddddddddddd         row 1   bbbbbbbbfffffff
    row 2   ee......ffffffff....         row 2   eedddddddddddd

All sequences share one clock, and all write into the same place of their caches. So no write is a
scatter. A cache is a ring, of which a sequence sees the times since its own beginning.

Prompts come in parts of a batch, and a part waits until every device has room for it. No row
leaves its device. The draws are those of `generate`, so the completions are the same.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from rrft_jax.models.arrays import Array
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM
from rrft_jax.parallel import sharding
from rrft_jax.rollout.generation import (
    GenerationConfig,
    Loop,
    LoopState,
    draws,
    generate,
    start,
    traced,
)
from rrft_jax.rollout.rollouts import Rollouts
from rrft_jax.rollout.sampler import Refill, advance, free, refill
from rrft_jax.rollout.sampling import SamplingParams

PARTS = 4  # a batch comes in at least so many parts, if a device has that many prompts
BATCHES = 16  # the batches of a stream: more of them would save little


def batches_together() -> int:
    """Return the number of batches that are worth one stream on the devices here.

    A CPU takes its time for rows and the lengths of their caches, hardly for reading weights. So
    batches that shrink are faster there, and a batch stays alone.
    """
    return 1 if jax.default_backend() == "cpu" else BATCHES


def complete(
    model: VLM,
    params: dict,
    batches: Iterable[tuple[int, Prompt]],
    key: Array,
    config: GenerationConfig,
) -> Iterator[Rollouts]:
    """Yield the completions of batches of B prompts each, in order, as soon as they are complete.

    Args:
      model: the model.
      params: its parameters.
      batches: the index of the first prompt of each batch, ever higher, and the B prompts. A batch
        of another shape begins when all completions before it have ended.
      key: the random key. A draw is a function of (key, prompt index, sample index, token index).
      config: the settings of sampling; `budget` is that of every batch.

    Yields:
      The rollouts of this process on the host, as `Rollouts.fetch` returns them.
    """
    for _, alike in itertools.groupby(batches, lambda own: _shape(own[1])):
        if batches_together() == 1:
            for first_row, prompt in alike:
                yield generate(model, params, prompt, key, config, first_row).fetch()
        else:
            yield from _complete(model, params, alike, key, config)


def _shape(prompt: Prompt) -> list[tuple[int, ...]]:
    return [x.shape for x in jax.tree.leaves(prompt)]


def _complete(
    model: VLM,
    params: dict,
    batches: Iterator[tuple[int, Prompt]],
    key: Array,
    config: GenerationConfig,
) -> Iterator[Rollouts]:
    """Yield the completions of batches of one shape."""
    first_row, prompt = next(batches)
    loop, state = start(model, params, prompt, draws(key, config, prompt, first_row), config)
    begun = jnp.zeros_like(state.sequences.budget)
    state = state._replace(sequences=state.sequences.replace(begun=begun))
    weights, sampling = model.decoding_weights(params), traced(config.sampling)
    rows = _Rows(model, loop, first_row)
    parts = _parts(rows.size)
    for first_row, prompt in batches:
        for index in range(parts):
            state, places = _with_room(loop, weights, state, sampling, rows.size // parts)
            part = Refill(prompt, draws(key, config, prompt, first_row), np.int32(index), places)
            time = int(state.sequences.time)
            cache = state.sequences.cache  # apart, so that its length compiles nothing again
            prompts, sequences, left = refill(
                loop.fixed, params, part, state.prompts, state.sequences.replace(cache=())
            )
            state = state._replace(prompts=prompts, sequences=sequences.replace(cache=cache))
            rows.swap(left, places, first_row, index, time)
        yield from rows.complete()
    rows.collect(loop.sample(weights, state, sampling), range(loop.batch))
    yield from rows.complete()


def _parts(size: int) -> int:
    """Return the number of equal parts in which a device's prompts of a batch come."""
    return min(n for n in range(1, size + 1) if size % n == 0 and n >= min(PARTS, size))


def _with_room(
    loop: Loop, weights: dict, state: LoopState, sampling: SamplingParams, part: int
) -> tuple[LoopState, Int[np.ndarray, "shards part"]]:
    """Sample until every device has room for a part; return the places of the room."""
    fixed, group = loop.fixed, loop.group
    enough = (loop.batch // fixed.shards - part) * group
    while True:
        sequences, most = advance(
            fixed, weights, state.prompts, state.sequences, sampling, np.int32(enough)
        )
        state, most = state._replace(sequences=sequences), int(most)
        room = np.asarray(free(fixed, sequences.done, group))
        if room.sum(1).min() >= part:
            places = np.argsort(~room, axis=1, kind="stable")[:, :part]
            return state, places.astype(np.int32)
        if most > enough:
            state = loop.move("grow", state)
        else:  # some prompts have ended sequences, and others that go on
            enough = most - 1


class _Rows:
    """The prompts that are being sampled, and the completions of batches on their way.

    A batch is known by its first row.

    Attributes:
      size: the prompts of a device.
    """

    def __init__(self, model: VLM, loop: Loop, batch: int):
        """Begin with a whole batch, each prompt in its own place."""
        self._mesh, self._group = model.mesh, loop.group
        self.size = loop.batch // loop.fixed.shards
        # Of the prompt in each place: its batch, its row there, and the time at which it began.
        self._batch, self._row = [batch] * loop.batch, list(range(loop.batch))
        self._begun = [0] * loop.batch
        self._unfinished = {batch: loop.batch}  # prompts of each batch
        # This process's completions: batch -> row -> arrays [G,T] and [G].
        self._found: dict[int, dict[int, Rollouts]] = {batch: {}}

    def swap(
        self, left: Rollouts, places: Int[np.ndarray, "shards n"], batch: int, part: int, time: int
    ) -> None:
        """Keep the completions [N*n*G,T] of these places, which have a part of a batch now."""
        slots = (places + self.size * np.arange(len(places))[:, None]).reshape(-1).tolist()
        self.collect(left, slots)
        self._unfinished.setdefault(batch, len(self._batch))
        self._found.setdefault(batch, {})
        for number, slot in enumerate(slots):
            self._batch[slot], self._begun[slot] = batch, time
            self._row[slot] = number * (self.size // places.shape[1]) + part

    def collect(self, out: Rollouts, slots: Sequence[int]) -> None:
        """Keep the completions of these places among all devices, [n*G,T] or [n,G,T]."""
        out, here = sharding.fetch(out), range(len(slots))
        if self._mesh is not None:
            here = sharding.local_rows(self._mesh, len(slots))
        out = jax.tree.map(lambda x: x.reshape(len(here), self._group, -1), out)
        for own, number in enumerate(here):
            slot = slots[number]
            row = _unrolled(out, own, self._begun[slot])
            self._found[self._batch[slot]][self._row[slot]] = row
        for slot in slots:
            self._unfinished[self._batch[slot]] -= 1

    def complete(self) -> Iterator[Rollouts]:
        """Yield the next batches that are complete."""
        for batch in list(self._unfinished):
            if self._unfinished[batch]:
                return
            del self._unfinished[batch]
            found = self._found.pop(batch)
            yield jax.tree.map(lambda *rows: np.stack(rows), *(found[row] for row in sorted(found)))


def _unrolled(out: Rollouts, row: int, begun: int) -> Rollouts:
    """Return the completions [G,T] of one of the rings [N,G,T]; `finished` has a last axis of 1."""
    found = jax.tree.map(lambda x: np.roll(x[row], -begun, axis=1), out)
    return found.replace(finished=found.finished[:, 0])
