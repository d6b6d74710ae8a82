"""Examples in, batches of static shapes out, in an order that is a function of the seed alone.

`order.py` says which samples make up which batch. Here they are loaded: by each process its own
rows, by threads or worker processes that read ahead and hand over in order, so that neither those
nor an interruption changes a batch. A row that cannot be used is left out and counted, never cut
to fit.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from rrft_jax.data.example import Example, Source
from rrft_jax.data.order import Order, Plan, causes, make_stream
from rrft_jax.data.pictures import BadRow
from rrft_jax.data.processor import Processor
from rrft_jax.data.samples import Row, Samples
from rrft_jax.data.shapes import Shape
from rrft_jax.errors import UserError
from rrft_jax.models.prompt import Prompt
from rrft_jax.parallel import distributed

# So many samples are seen before the share of skipped ones can end a run.
_FIRST_VERDICT = 20


@dataclasses.dataclass
class Batch:
    """The rows of one process, B in all, and what is to be known of those of all processes.

    Only a finite loader has batches of fewer `examples` than rows. Those that are none of theirs
    are repeated or borrowed to keep the shape; their completion mask is False throughout.
    """

    prompt: Prompt  # NumPy arrays
    examples: list[Example]
    rows: list[int]  # where each example stands in the arrays
    sources: list[Source]  # where each example is from
    prompt_texts: list[str]  # one an example, for people to read
    completions: np.ndarray | None  # [B,1,T] int32, padded on the right; None without targets
    completion_mask: np.ndarray | None  # [B,1,T] bool
    row_ids: list[int]  # of the B rows in the batch of all processes
    # Of all processes:
    ids: list[str] = dataclasses.field(default_factory=list)  # of the examples, in order
    tokens: int = 0  # of the prompts and completions
    padding: dict[str, float] = dataclasses.field(default_factory=dict)  # shares, by kind


class _Told(NamedTuple):
    """What a process tells the others of a row of a batch."""

    id: str | None  # None where the row is no example
    bad: BadRow | None  # the sample whose place it took
    used: tuple[int, int]  # patches and tokens that aren't padding


@dataclasses.dataclass(frozen=True)
class _Share:
    """The rows of one process, counted through all batches; called by threads and workers."""

    samples: Samples
    order: Order
    row_ids: Sequence[int]  # of the process's rows in a batch of all processes, in order

    @property
    def rows(self) -> int:
        return len(self.row_ids)

    def own(self, plan: Plan) -> int:
        """How many of the process's rows are samples; the last batch may have fewer."""
        return sum(place < len(plan.numbers) for place in self.row_ids)

    def __call__(self, index: int) -> tuple[Row | None, BadRow | None]:
        """A row, and what was wrong with the sample whose place it took, if anything was.

        Without a row no sample of the window can be decoded. Beyond the samples of a last batch
        the row is that of another.
        """
        number, row = divmod(index, self.rows)
        plan, bad = self.order.batch(number), None
        place = min(self.row_ids[row], len(plan.numbers) - 1)
        for sample in self.order.stand_ins(number, place):
            row = self.samples.load(sample)
            if isinstance(row, Row) and plan.shape.holds(row.size):
                return row, bad
            if isinstance(row, Row):
                row = BadRow("picture", f"sample {row.example.id}: it changed while it was read")
            bad = bad or row
        return None, bad


class Loader(Iterator[Batch]):
    """Iterates over batches; see `make_loader`.

    Attributes:
      skipped: how many samples were left out, by cause: "picture", "malformed", "prompt too long",
        "target too long".
      used: how many were not. Both count the samples of a window when its first batch is made, by
        whatever process they are read.
    """

    def __init__(
        self,
        samples: Samples,
        order: Order,
        *,
        workers: int,
        max_skipped_share: float,
        row_ids: Sequence[int],
        gather: Callable[[Any], list[Any]],
        report: Callable[[BadRow], None],
    ):
        """For the arguments see `make_loader`."""
        self._samples, self._order = samples, order
        self._share = _Share(samples, order, row_ids)
        self._gather = gather
        self._workers = workers
        self._max_skipped_share = max_skipped_share
        self._report = report
        self._rows: grain.DatasetIterator | None = None
        self._given = 0  # batches
        self.used = 0
        self.skipped: collections.Counter[str] = collections.Counter()

    def __next__(self) -> Batch:
        """The next batch.

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
        if self._rows is None:
            self._rows = self._read_ahead()
        own, rows, broken, failed = self._share.own(plan), [], {}, None
        for number in range(max(1, own)):
            row, bad = next(self._rows)
            if row is None:
                failed = bad
                break
            rows.append(row)
            if bad and number < own:
                broken[number] = bad
        kept = [n for n in range(min(own, len(rows))) if self._order.endless or n not in broken]
        batch = self.batch(rows, plan.shape, kept) if not failed else None
        told = [
            _Told(rows[n].example.id, broken.get(n), _used(batch, n))
            if n in kept
            else _Told(None, broken[n], (0, 0))
            for n in range(own if batch else 0)
        ]
        return self._with_others(batch, told, failed)

    def _with_others(self, batch: Batch | None, told: list[_Told], failed: BadRow | None) -> Batch:
        """The batch, once every process knows of the rows of all: all count and fail alike."""
        parts = self._gather((failed, dict(zip(self._share.row_ids, told))))
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
        held = self._order.batch_size * np.array([shape[1], size])
        batch.padding = {
            f"padding_{name}": float(1 - used / room) if room else 0.0
            for name, used, room in zip(("patches", "tokens"), (patches, tokens), held)
        }
        return batch

    def samples(self) -> Iterator[Row | BadRow]:
        """Every sample in the order of the stream, before it is sorted by shape, one at a time."""
        stream = self._order.stream
        return (self._samples.load(stream[i]) for i in range(len(stream)))

    def description(self) -> list[str]:
        """A line on each shape that the first batches have, with its share and its padding."""
        return self._order.description()

    def close(self) -> None:
        """Ends the reading ahead, which would hold the program's exit up."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        self._order.close()

    def get_state(self) -> dict[str, Any]:
        """Where the loader stands between two batches, as JSON values."""
        return {"batches": self._given, "used": self.used, "skipped": dict(self.skipped)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on as the loader did that gave `state`; only their processes may differ in number.

        Both must have been made alike, over the same data.
        """
        if self._rows is not None:
            self._rows.close()
            self._rows = None
        self._given, self.used = state["batches"], state["used"]
        self.skipped = collections.Counter(state["skipped"])

    def batch(self, rows: list[Row], shape: Shape, kept: Sequence[int] | None = None) -> Batch:
        """Puts at most B rows together, of which `kept` are examples; the last fills them up."""
        size, kept = self._share.rows, range(len(rows)) if kept is None else kept
        padded = [*rows, *rows[-1:] * (size - len(rows))]
        processor = self._samples.processor
        prompt = processor.batch([row.prompt for row in padded], shape.prompt, shape.patches)
        completions = mask = None
        if self._samples.targets:
            completions = np.full((size, 1, shape.target), processor.pad_token, np.int32)
            mask = np.zeros(completions.shape, bool)
            for b, row in enumerate(padded):
                completions[b, 0, : len(row.target)] = row.target
                mask[b, 0, : len(row.target)] = b in kept
        return Batch(
            prompt=prompt,
            examples=[rows[b].example for b in kept],
            rows=list(kept),
            sources=[self._samples.sources[rows[b].source] for b in kept],
            prompt_texts=[rows[b].text for b in kept],
            completions=completions,
            completion_mask=mask,
            row_ids=list(self._share.row_ids),
        )

    def _read_ahead(self) -> grain.DatasetIterator:
        """The rows from the next batch on."""
        share, rows = self._share, 2**62
        if not self._order.endless:
            plans = self._order.window(0).batches
            rows = (len(plans) - 1) * share.rows + max(1, share.own(plans[-1]))
        indices = grain.MapDataset.range(self._given * share.rows, rows)
        ahead = max(2, min(2 * share.rows, 64))
        if self._workers:
            if not flags.FLAGS.is_parsed():  # Grain looks its own up, whoever parses the command.
                flags.FLAGS.mark_as_parsed()
            read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
            options = grain.multiprocessing.MultiprocessingOptions(
                self._workers, per_worker_buffer_size=max(1, ahead // self._workers)
            )
            return iter(indices.map(share).to_iter_dataset(read).mp_prefetch(options))
        threads = min(16, os.cpu_count() or 1)
        read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
        return iter(indices.map(share).to_iter_dataset(read))

    def _skip(self, rows: Sequence[BadRow]) -> None:
        """Counts samples as skipped that were counted as used."""
        if not rows:
            return
        for row in rows:
            self._report(row)
        self.used -= len(rows)
        self.skipped.update(row.cause for row in rows)
        bad = self.skipped.total()
        seen = bad + self.used
        if seen >= _FIRST_VERDICT and bad > self._max_skipped_share * seen:
            raise UserError(
                f"{bad} of the first {seen} samples are unusable ({causes(self.skipped)}), the "
                f"last of them: {rows[-1]}; mend the data or raise data.max_skipped_share"
            )


def make_loader(
    sources: Sequence[Source],
    processor: Processor,
    *,
    paradigm: str,
    batch_size: int,
    seed: int,
    shuffle: bool,
    epochs: int | None,
    targets: bool,
    max_prompt_length: int,
    max_target_length: int,
    thought_dropout: float = 0.0,
    max_buckets: int = 4,
    max_skipped_share: float = 0.5,
    workers: int = 0,
    row_ids: Sequence[int] | None = None,
    gather: Callable[[Any], list[Any]] = distributed.gather,
    report: Callable[[BadRow], None] = lambda row: None,
) -> Loader:
    """A `Loader` over the examples of `sources`.

    Args:
      sources: what to read; their `examples` are called from several threads. Give all of them a
        weight, or none: then an epoch is every sample of every source once. With weights, each
        source goes through its own epochs, and one of the mixture is as many samples as there are.
      processor: turns messages and pictures into rows.
      paradigm: one of prompts.PARADIGMS, or ZERO_SHOT without targets; decides what is asked and
        what the target looks like.
      batch_size: samples of a batch, all processes together.
      seed: decides the order, and whose thoughts are dropped.
      shuffle: a new order each epoch; False keeps the order of the sources.
      epochs: how often to go through them; None for ever. Batches run on across epochs.
      targets: whether batches hold the completions to learn.
      max_prompt_length: tokens of the longest prompt that is used, pictures included.
      max_target_length: tokens of the longest target that is used.
      thought_dropout: the share of samples whose target has an empty thought. A sample belongs to
        it or not by its id, in every epoch alike.
      max_buckets: how many shapes batches may have, but for samples beyond all of those chosen.
      max_skipped_share: more unusable samples than this share end the run with a UserError.
      workers: processes that load rows; 0 loads them by threads of this one.
      row_ids: which rows of a batch are this process's; None is all of them.
      gather: tells a value to all processes that train together, and gives what each of them told.
      report: is told of every sample that is left out.

    Raises:
      UserError: there are no samples, or the numbers don't fit.
    """
    lengths = [len(source.examples) for source in sources]
    weights = [source.weight for source in sources]
    if not lengths or not all(lengths):
        raise UserError("the data set is empty; expected at least one sample")
    if any(weights) and not all(weight > 0 for weight in weights):
        raise UserError(f"weights {weights} of the sources: give each one above 0, or none at all")
    if max_buckets < 1:
        raise UserError(f"data.buckets={max_buckets}: expected 1 or more")
    # Patches are bounded by the prompt's tokens, four of them to one.
    limits = Shape(2**31, max_prompt_length, max_target_length)
    samples = Samples(sources, processor, paradigm, seed, targets, thought_dropout, limits)
    order = Order(
        make_stream(lengths, weights, seed=seed, shuffle=shuffle, epochs=epochs),
        samples.measure,
        total=sum(lengths),
        endless=epochs is None,
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        limits=limits,
        max_shapes=max_buckets,
    )
    return Loader(
        samples,
        order,
        workers=workers,
        max_skipped_share=max_skipped_share,
        row_ids=range(batch_size) if row_ids is None else row_ids,
        gather=gather,
        report=report,
    )


def _used(batch: Batch, b: int) -> tuple[int, int]:
    """Patches and tokens of a row that aren't padding."""
    tokens = batch.prompt.mask[b].sum()
    if batch.completion_mask is not None:
        tokens = tokens + batch.completion_mask[b].sum()
    return int((batch.prompt.patch_image[b] >= 0).sum()), int(tokens)
