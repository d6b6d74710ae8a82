"""Examples -> batches of static shapes, in an order that depends on the seed alone.

`order.py` plans which samples make up which batch. Here each process loads its own rows. Threads
or worker processes read ahead and deliver in order, so neither their number nor an interruption
changes a batch. A sample that cannot be used is left out and counted; nothing is cut to fit.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rrft_jax.data.batch import Batch, make_batch, used
from rrft_jax.data.order import Batching, Order, Plan, causes, make_stream
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.processor import Processor
from rrft_jax.data.samples import Format, Row, Samples, Source
from rrft_jax.data.shapes import Shape, union
from rrft_jax.errors import UserError
from rrft_jax.monitoring import waiting
from rrft_jax.parallel import distributed

if TYPE_CHECKING:
    import grain

# The share of skipped samples can end a run only after this many samples.
_FIRST_VERDICT = 20


@dataclasses.dataclass(frozen=True)
class Reading:
    """The settings of a process's reading of rows, and of samples that cannot be used."""

    workers: int = 0  # processes that load rows; 0 loads them by threads of this process
    row_ids: Sequence[int] | None = None  # this process's rows of a batch; None is all of them
    # Tells a value to all processes that train together, and returns the values of all.
    gather: Callable[[Any], list[Any]] = distributed.gather
    report: Callable[[BadSample], None] = lambda row: None  # is called with every sample left out
    max_skipped_share: float = 0.5  # a larger share of unusable samples ends the run


class _Told(NamedTuple):
    """A process's message to the others about one row of a batch."""

    id: str | None  # None if the row is no example
    bad: BadSample | None  # the unusable sample that the row replaces
    used: tuple[int, int]  # patches and tokens that are not padding


@dataclasses.dataclass(frozen=True)
class _Share:
    """The rows of one process, numbered through all batches; called by threads and workers."""

    samples: Samples
    order: Order
    row_ids: Sequence[int]  # of the process's rows in a batch of all processes, in order

    @property
    def rows(self) -> int:
        """The number of the process's rows in a batch."""
        return len(self.row_ids)

    def own(self, plan: Plan) -> int:
        """Return how many of the process's rows are samples; fewer only in the last batch."""
        return sum(place < len(plan.numbers) for place in self.row_ids)

    def __call__(self, index: int) -> tuple[Row | None, BadSample | None]:
        """Return a row, and a `BadSample` if the row replaces an unusable sample.

        The row is None if no sample of the window can be decoded. A row past the samples of the
        last batch repeats the batch's last sample.
        """
        number, row = divmod(index, self.rows)
        plan, bad = self.order.batch(number), None
        place = min(self.row_ids[row], len(plan.numbers) - 1)
        for sample in self.order.stand_ins(number, place):
            row = self.samples.load(sample)
            if isinstance(row, Row) and plan.shape.holds(row.size):
                return row, bad
            if isinstance(row, Row):
                row = BadSample("picture", f"sample {row.example.id}: it changed while it was read")
            bad = bad or row
        return None, bad


class Loader(Iterator[Batch]):
    """An iterator over batches; `make_loader` makes it.

    Attributes:
      skipped: the number of samples left out, by cause: "picture", "malformed", "prompt too long",
        "target too long".
      used: the number of other samples. Both numbers include the samples of all processes. They
        include a whole window from its first batch on.
    """

    def __init__(self, samples: Samples, order: Order, reading: Reading):
        """Read nothing yet; `make_loader` makes the arguments."""
        self._samples, self._order, self._reading = samples, order, reading
        row_ids = range(order.batching.batch_size) if reading.row_ids is None else reading.row_ids
        self._share = _Share(samples, order, row_ids)
        self._rows: grain.DatasetIterator | None = None
        self._given = 0  # batches
        self.used = 0
        self.skipped: collections.Counter[str] = collections.Counter()

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
          UserError: too many samples were unusable, or none of a whole window was usable.
        """
        plan = self._order.batch(self._given)
        if (window := self._order.begins(self._given)) is not None:
            begun = self._order.window(window)
            self.used += begun.seen
            self._skip(begun.skipped)
        if plan is None:
            raise StopIteration
        start = ""
        if self._rows is None:
            self._rows = self._read_ahead()
            start = "; its worker processes start" * bool(self._reading.workers)
        own, rows, broken, failed = self._share.own(plan), [], {}, None
        for number in range(max(1, own)):
            with waiting(f"reading a batch{start}"):
                row, bad = next(self._rows)
            if row is None:
                failed = bad
                break
            rows.append(row)
            if bad and number < own:
                broken[number] = bad
        kept = [n for n in range(min(own, len(rows))) if self._order.endless or n not in broken]
        batch = None
        if not failed:
            batch = make_batch(self._samples, rows, plan.shape, self._share.row_ids, kept)
        told = [
            _Told(rows[n].example.id, broken.get(n), used(batch, n))
            if n in kept
            else _Told(None, broken[n], (0, 0))
            for n in range(own if batch else 0)
        ]
        return self._with_others(batch, told, failed)

    def _with_others(
        self, batch: Batch | None, told: list[_Told], failed: BadSample | None
    ) -> Batch:
        """Add the messages of all processes to the batch, so that all count and fail alike."""
        parts = self._reading.gather((failed, dict(zip(self._share.row_ids, told))))
        for bad, _ in parts:
            if bad:
                raise UserError(f"no usable sample in the data, the last of them: {bad}")
        rows = distributed.merged([part for _, part in parts])
        self._skip([row.bad for row in rows if row.bad])
        self._given += 1
        batch.ids = [row.id for row in rows if row.id is not None]
        patches, tokens = np.sum([row.used for row in rows], axis=0)
        batch.tokens = int(tokens)
        shape, size = batch.prompt.patch_image.shape, batch.prompt.mask.shape[1]
        size += 0 if batch.completions is None else batch.completions.shape[2]
        held = self._order.batching.batch_size * np.array([shape[1], size])
        batch.padding = {
            f"padding_{name}": float(1 - filled / room) if room else 0.0
            for name, filled, room in zip(("patches", "tokens"), (patches, tokens), held)
        }
        return batch

    def samples(self) -> Iterator[Batch | BadSample]:
        """Yield every sample once, as a batch of its own, in their order before they are sorted."""
        stream, seen = self._order.stream, set()
        for i in range(len(stream)):
            number = int(stream[i])
            if number not in seen:
                seen.add(number)
                yield self.sample(number)
                if len(seen) == self._order.total:
                    return

    def sample(self, number: int) -> Batch | BadSample:
        """Return a sample as a batch of its own; samples are numbered through all sources."""
        row = self._samples.load(number)
        if isinstance(row, Row):
            return make_batch(self._samples, [row], row.size, range(1))
        return row

    @property
    def largest(self) -> Shape:
        """The largest shape that the first samples need; a later sample may exceed it."""
        return union(self._order.shapes)

    def description(self) -> list[str]:
        """Return one line for each shape of the first batches: its share, and its padding.

        Another line counts the samples among them that can't be used.
        """
        return self._order.description()

    def close(self) -> None:
        """Stop reading ahead, which would delay the end of the program."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        self._order.close()

    def get_state(self) -> dict[str, Any]:
        """Return the loader's position between two batches, as JSON values."""
        return {"batches": self._given, "used": self.used, "skipped": dict(self.skipped)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from the position of a loader with the same arguments and the same data.

        The other loader may have run in another number of processes.
        """
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        self._given, self.used = state["batches"], state["used"]
        self.skipped = collections.Counter(state["skipped"])

    def _read_ahead(self) -> "grain.DatasetIterator":
        """Start to read this process's rows from the next batch on."""
        # Imported here, because a program on a machine without grain may need everything else.
        import grain
        from absl import flags

        share, rows = self._share, 2**62
        if not self._order.endless:
            plans = self._order.window(0).batches
            rows = (len(plans) - 1) * share.rows + max(1, share.own(plans[-1]))
        indices = grain.MapDataset.range(self._given * share.rows, rows)
        ahead = max(2, min(2 * share.rows, 64))
        if workers := self._reading.workers:
            if (
                not flags.FLAGS.is_parsed()
            ):  # Grain reads absl flags, whichever parser reads the command.
                flags.FLAGS.mark_as_parsed()
            read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
            options = grain.multiprocessing.MultiprocessingOptions(
                workers, per_worker_buffer_size=max(1, ahead // workers)
            )
            return iter(indices.map(share).to_iter_dataset(read).mp_prefetch(options))
        threads = min(16, os.cpu_count() or 1)
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
        return iter(indices.map(share).to_iter_dataset(read))

    def _skip(self, rows: Sequence[BadSample]) -> None:
        """Count as skipped some samples that were counted as used."""
        if not rows:
            return
        for row in rows:
            self._reading.report(row)
        self.used -= len(rows)
        self.skipped.update(row.cause for row in rows)
        bad = self.skipped.total()
        seen = bad + self.used
        if seen >= _FIRST_VERDICT and bad > self._reading.max_skipped_share * seen:
            raise UserError(
                f"{bad} of the first {seen} samples are unusable ({causes(self.skipped)}), the "
                f"last of them: {rows[-1]}; mend the data or raise data.max_skipped_share"
            )


def make_loader(
    sources: Sequence[Source],
    processor: Processor,
    form: Format,
    batching: Batching,
    reading: Reading = Reading(),
) -> Loader:
    """Return a `Loader` over the examples of `sources`.

    Args:
      sources: the data sets; their `examples` are called from several threads. Give all of them a
        weight, or none. Without weights an epoch is every sample of every source once. With
        weights each source goes through its own epochs, and an epoch of the mixture is as many
        samples as there are.
      processor: turns messages and pictures into rows.
      form: how a sample becomes a prompt and a target.
      batching: how samples become batches.
      reading: how this process reads its rows.

    Raises:
      UserError: there are no samples, or the numbers don't fit.
    """
    lengths = [len(source.examples) for source in sources]
    weights = [source.weight for source in sources]
    if not lengths or not all(lengths):
        raise UserError("the data set is empty; expected at least one sample")
    if any(weights) and not all(weight > 0 for weight in weights):
        raise UserError(f"weights {weights} of the sources: give each one above 0, or none at all")
    if batching.max_buckets < 1:
        raise UserError(f"data.buckets={batching.max_buckets}: expected 1 or more")
    samples = Samples(sources, processor, form, batching.seed)
    stream = make_stream(lengths, weights, batching)
    order = Order(stream, samples.measure, sum(lengths), batching, form.limits)
    return Loader(samples, order, reading)
