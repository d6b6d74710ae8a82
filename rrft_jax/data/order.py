"""The samples and the shape of each batch, as a function of the seed and the data alone.

The samples of all sources form one stream, in an order that is new in each epoch. The stream is
cut into windows of a few batches. In a window, samples that cannot be used are left out. The
others are sorted by shape, so that the rows of a batch are alike:

    stream     a B c D e f G h | i J ...     small letters are small samples
    batches    (e f) (B D) (h G) (a c)       in an order of their own

This takes sizes, but no pixels. So every process of a pod computes the same order for itself, and
a resumed run only needs the number of its next batch. All processes must see the same files.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rrft_jax.data import shapes
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.shapes import Shape
from rrft_jax.errors import UserError

if TYPE_CHECKING:
    import grain

# A window has this many batches. It has more if batches are small, to reach this many samples.
_WINDOW_BATCHES = 8
_WINDOW_SAMPLES = 64

_SAMPLE = 512  # samples from which shapes are chosen
_KEPT = 16  # windows in memory: more than are ever read ahead
_SIZES_KEPT = 2**17  # samples whose size is remembered for the next epoch


class Plan(NamedTuple):
    """The samples and the shape of one batch, all processes together."""

    numbers: tuple[int, ...]  # of the samples; only the last batch of all may have fewer than B
    shape: Shape


@dataclasses.dataclass(frozen=True)
class Window:
    """Consecutive batches that share one part of the stream."""

    batches: list[Plan]
    seen: int  # samples in this part of the stream
    skipped: list[BadSample]  # the samples among them that cannot be used


@dataclasses.dataclass(frozen=True)
class Batching:
    """The settings of batches: number of samples, order, number of shapes."""

    batch_size: int  # samples of a batch, all processes together
    seed: int  # decides the order
    shuffle: bool  # a new order in each epoch; False keeps the order of the sources
    epochs: int | None  # None repeats for ever; batches run on across epochs
    max_buckets: int = 4  # shapes that batches may have; a sample beyond them all adds one


@dataclasses.dataclass
class Order:
    """The plans of all batches. Threads may share it, and other processes may receive it.

    An endless order has full batches only: a window that is short of usable samples repeats some.
    A finite order is a single window of any length. Its last batch may have fewer samples.
    """

    stream: "grain.MapDataset"  # the numbers of samples, from `make_stream`
    measure: Callable[[int], Shape | BadSample]  # number of a sample -> size of its row
    total: int  # number of samples
    batching: Batching
    limits: Shape  # no row is larger
    shapes: Sequence[Shape] | None = None  # None chooses them by the first samples

    def __post_init__(self):
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
        self._windows: dict[int, Window] = {}
        self._size = functools.lru_cache(_SIZES_KEPT)(self.measure)
        self._batches = max(_WINDOW_BATCHES, -(-_WINDOW_SAMPLES // self.batching.batch_size))
        if self.shapes is None:
            found = self._pool.map(self._size, self._numbers(0, min(_SAMPLE, self.total)))
            usable = [size for size in found if isinstance(size, Shape)]
            self.shapes = shapes.choose(usable, self.limits, self.batching.max_buckets)

    def __reduce__(self):
        # Only the fields travel: the other process computes the windows again.
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @property
    def endless(self) -> bool:
        """True if there is always another batch."""
        return self.batching.epochs is None

    def batch(self, number: int) -> Plan | None:
        """Return the plan of a batch; None beyond the last.

        Raises:
          UserError: no sample of its window can be used.
        """
        window, place = self._place(number)
        batches = self.window(window).batches
        return batches[place] if place < len(batches) else None

    def window(self, number: int) -> Window:
        """Return the window of this number; raise as `batch` does."""
        with self._lock:
            if number not in self._windows:
                self._windows[number] = self._cut(number)
                if len(self._windows) > _KEPT:
                    del self._windows[next(iter(self._windows))]
            return self._windows[number]

    def begins(self, number: int) -> int | None:
        """Return the number of the window that begins with this batch, or None."""
        window, place = self._place(number)
        return window if place == 0 else None

    def stand_ins(self, number: int, place: int) -> Iterator[int]:
        """Yield the sample at `place` of a batch, then the samples that can replace it.

        These are first the other samples of the batch, then the samples of its window that fit.
        """
        batch = self.batch(number)
        yield from batch.numbers[place:] + batch.numbers[:place]
        others = self.window(self._place(number)[0]).batches
        for other in itertools.chain.from_iterable(plan.numbers for plan in others):
            if other not in batch.numbers and batch.shape.holds(self._size(other)):
                yield other

    def description(self) -> list[str]:
        """Return one line for each shape of the first batches: its share, and its padding.

        Another line counts the samples among them that can't be used, and names the first.
        """
        found: dict[Shape, list[Shape]] = collections.defaultdict(list)
        length = self._batches * self.batching.batch_size
        sample = min(_SAMPLE, self.total)
        windows = [self.window(n) for n in range(-(-sample // length) if self.endless else 1)]
        for plan in itertools.chain.from_iterable(window.batches for window in windows):
            found[plan.shape] += map(self._size, plan.numbers)
        total = sum(map(len, found.values()))
        lines = []
        for shape, sizes in sorted(found.items(), key=lambda item: item[0].cost):
            names = ("patches", "prompt tokens", "target tokens")
            axes = ", ".join(f"{n:,} {name}" for n, name in zip(shape, names) if n)
            used, held = np.sum(sizes, axis=0), len(sizes) * np.array(shape)
            parts = {"patches": (used[0], held[0]), "tokens": (used[1:].sum(), held[1:].sum())}
            padding = " and ".join(
                f"{100 * (1 - some / every):.1f} % of the {name}"
                for name, (some, every) in parts.items()
                if every
            )
            share = f"{100 * len(sizes) / total:.0f} % of the samples"
            lines.append(f"{self.batching.batch_size} x ({axes}): {share}, {padding} are padding")
        if skipped := [bad for window in windows for bad in window.skipped]:
            seen = sum(window.seen for window in windows)
            why = causes(collections.Counter(bad.cause for bad in skipped))
            lines.append(
                f"{len(skipped):,} of the first {seen:,} samples can't be used ({why}), such as: "
                f"{skipped[0]}"
            )
        return lines

    def close(self) -> None:
        """Stop measuring samples ahead of time."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _place(self, number: int) -> tuple[int, int]:
        """Return the window of a batch, and the batch's place in the window."""
        return divmod(number, self._batches) if self.endless else (0, number)

    def _numbers(self, start: int, stop: int) -> list[int]:
        return [int(self.stream[i]) for i in range(start, min(stop, len(self.stream)))]

    def _cut(self, number: int) -> Window:
        length = self._batches * self.batching.batch_size
        first = number * length
        numbers = self._numbers(first, first + length if self.endless else len(self.stream))
        sizes = list(self._pool.map(self._size, numbers))
        if self.endless:  # measure the next window now, so that it is ready in time
            for ahead in self._numbers(first + length, first + 2 * length):
                self._pool.submit(self._size, ahead)
        skipped = [size for size in sizes if isinstance(size, BadSample)]
        rows = [
            (shapes.fit(self.shapes, size, self.limits), size, sample)
            for sample, size in zip(numbers, sizes)
            if isinstance(size, Shape)
        ]
        if not rows:
            raise UserError(
                f"no usable sample in the data: {len(skipped)} in a row are not "
                f"({causes(collections.Counter(bad.cause for bad in skipped))}), the last of "
                f"them: {skipped[-1]}"
            )
        if self.endless:
            rows = list(itertools.islice(itertools.cycle(rows), length))
        rows.sort(key=lambda row: (row[0].cost, row[0]))  # stable: otherwise as in the stream
        batches = []
        for start in range(0, len(rows), self.batching.batch_size):
            _, sizes, samples = zip(*rows[start : start + self.batching.batch_size])
            shape = shapes.fit(self.shapes, shapes.union(sizes), self.limits)
            batches.append(Plan(samples, shape))
        if self.batching.shuffle and len({plan.shape for plan in batches}) > 1:
            full = len(rows) // self.batching.batch_size
            drawn = uniform(self.batching.seed, f"window/{number}")
            rng = np.random.default_rng(int(drawn * 2**48))
            batches[:full] = [batches[i] for i in rng.permutation(full)]
        return Window(batches, len(numbers), skipped)


def make_stream(
    lengths: Sequence[int], weights: Sequence[float], batching: Batching
) -> "grain.MapDataset":
    """Return the numbers of samples, which count through all sources, in the order of training.

    Args:
      lengths: the number of samples of each source.
      weights: the sources' shares. If all are 0, a share follows the length, and an epoch is every
        sample once. If all are above 0, every source goes through its own epochs, and an epoch of
        the mixture is as many samples as there are in all.
      batching: its seed, shuffle and epochs.
    """
    # Imported here, because a program on a machine without grain may need everything else.
    import grain

    def shuffled(numbers: range, name: str) -> grain.MapDataset:
        numbers = grain.MapDataset.range(numbers.start, numbers.stop)
        if not batching.shuffle:
            return numbers
        # Hashed, because grain counts up from the seed by epoch: neighbouring seeds would share
        # all but one of their orders.
        return numbers.shuffle(seed=int(uniform(batching.seed, name) * 2**32))

    total = sum(lengths)
    if len(lengths) == 1 or not any(weights):
        return shuffled(range(total), "shuffle").repeat(batching.epochs)
    ends = list(itertools.accumulate(lengths))
    parts = [
        shuffled(range(end - length, end), f"shuffle/{k}").repeat()
        for k, (end, length) in enumerate(zip(ends, lengths))
    ]
    mixed = grain.MapDataset.mix(parts, weights)
    return mixed if batching.epochs is None else mixed[: batching.epochs * total]


def uniform(seed: int, name: str) -> float:
    """Return a number in [0, 1) that depends on `seed` and `name` alone, on every machine."""
    text = f"{seed}/{name}".encode(errors="backslashreplace")
    digest = hashlib.blake2b(text, digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


def causes(counts: collections.Counter[str]) -> str:
    """Return counts as text, such as "picture: 3, malformed: 1"."""
    return ", ".join(f"{cause}: {n}" for cause, n in counts.items())
