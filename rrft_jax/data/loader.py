"""Examples in, batches of static shapes out, in an order that is a function of the seed alone.

Rows are read ahead by threads and put together in order, so that neither the threads nor an
interruption changes a batch. A row that cannot be used is left out and counted, never cut to fit.
"""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from rrft_jax.data.example import Example
from rrft_jax.data.processor import BadRow, Processor, bucket
from rrft_jax.data.prompts import OWN, Prompts, messages, target
from rrft_jax.errors import UserError
from rrft_jax.models.prompt import Prompt

# So many rows are seen before the share of skipped ones can end a run.
_FIRST_VERDICT = 20


@dataclasses.dataclass
class Batch:
    """B rows. Only the last batch of a finite loader can have fewer `examples` than B.

    Its rows beyond `examples` repeat the last one to keep the shape; their completion mask is
    False throughout.
    """

    prompt: Prompt  # NumPy arrays
    examples: list[Example]
    prompt_texts: list[str]  # one an example, for people to read
    completions: np.ndarray | None  # [B,1,T] int32, padded on the right; None without targets
    completion_mask: np.ndarray | None  # [B,1,T] bool


@dataclasses.dataclass(frozen=True)
class Row:
    """One sample of a batch to be."""

    example: Example
    prompt: Prompt
    text: str
    target: list[int]  # empty without targets


class Loader(Iterator[Batch]):
    """Iterates over batches; see `make_loader`.

    Attributes:
      rows: what batches are made of, one `Row | BadRow` a sample, for whoever wants to see each.
      skipped: how many rows were left out, by cause: "picture", "malformed", "prompt too long",
        "target too long".
    """

    def __init__(
        self,
        rows: grain.IterDataset,
        processor: Processor,
        *,
        batch_size: int,
        max_lengths: tuple[int, int],
        smallest_bucket: int,
        max_skipped_share: float,
    ):
        """Takes `rows` of `Row | BadRow`; `max_lengths` are those of prompts and targets."""
        self.rows = iter(rows)
        self._processor = processor
        self._batch_size = batch_size
        self._max_prompt, self._max_target = max_lengths
        self._smallest_bucket = smallest_bucket
        self._max_skipped_share = max_skipped_share
        self._used = 0
        self._last_skipped: BadRow | None = None
        self.skipped: collections.Counter[str] = collections.Counter()

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          UserError: too many rows were unusable, or the data ended without a single usable one.
        """
        rows = []
        while len(rows) < self._batch_size:
            row = next(self.rows, None)
            if row is None:
                break
            if isinstance(row, BadRow):
                self._skip(row)
            else:
                rows.append(row)
                self._used += 1
        if not rows:
            if not self._used:
                raise UserError(
                    f"no usable sample in the data ({self._causes()}), the last of them: "
                    f"{self._last_skipped}"
                )
            raise StopIteration
        return self.batch(rows)

    def close(self) -> None:
        """Ends the reading ahead, which would hold the program's exit up."""
        self.rows.close()

    def get_state(self) -> dict[str, Any]:
        """Where the loader stands between two batches, as JSON values."""
        return {
            "rows": self.rows.get_state(),
            "used": self._used,
            "skipped": dict(self.skipped),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on as the loader did that gave `state`; both must have been made alike."""
        self.rows.set_state(state["rows"])
        self._used = state["used"]
        self.skipped = collections.Counter(state["skipped"])

    def _skip(self, row: BadRow) -> None:
        self.skipped[row.cause] += 1
        self._last_skipped = row
        bad = self.skipped.total()
        seen = bad + self._used
        too_many = bad > self._max_skipped_share * seen or not self._used
        if seen >= _FIRST_VERDICT and too_many:
            raise UserError(
                f"{bad} of the first {seen} samples are unusable ({self._causes()}), the last of "
                f"them: {row}; mend the data or raise data.max_skipped_share"
            )

    def _causes(self) -> str:
        return ", ".join(f"{cause}: {n}" for cause, n in self.skipped.items())

    def batch(self, rows: list[Row]) -> Batch:
        """Puts at least one and at most B rows together."""
        missing = self._batch_size - len(rows)
        padded = rows + [rows[-1]] * missing
        prompt = self._processor.batch(
            [row.prompt for row in padded],
            prompt_length=self._length([len(row.prompt.tokens) for row in rows], self._max_prompt),
        )
        completions = mask = None
        if rows[0].target:
            length = self._length([len(row.target) for row in rows], self._max_target)
            completions = np.full(
                (self._batch_size, 1, length), self._processor.pad_token, np.int32
            )
            mask = np.zeros(completions.shape, bool)
            for b, row in enumerate(padded):
                completions[b, 0, : len(row.target)] = row.target
                mask[b, 0, : len(row.target)] = b < len(rows)
        return Batch(
            prompt=prompt,
            examples=[row.example for row in rows],
            prompt_texts=[row.text for row in rows],
            completions=completions,
            completion_mask=mask,
        )

    def _length(self, lengths: list[int], limit: int) -> int:
        return min(bucket(max(lengths), self._smallest_bucket), limit)


def make_loader(
    examples: Sequence[Example],
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
    prompts: Prompts = OWN,
    smallest_bucket: int = 64,
    max_skipped_share: float = 0.5,
) -> Loader:
    """A `Loader` over `examples`.

    Args:
      examples: anything with `__len__` and `__getitem__`; called from several threads.
      processor: turns messages and pictures into rows.
      paradigm: one of prompts.PARADIGMS; decides what is asked and what the target looks like.
      batch_size: B.
      seed: decides the order, and whose thoughts are dropped.
      shuffle: a new order each epoch; False keeps the order of `examples`.
      epochs: how often to go through them; None for ever. Batches run on across epochs.
      targets: whether batches hold the completions to learn.
      max_prompt_length: tokens of the longest prompt that is used, pictures included.
      max_target_length: tokens of the longest target that is used.
      thought_dropout: the share of samples whose target has an empty thought. A sample belongs to
        it or not by its id, in every epoch alike.
      prompts: the words of what is asked.
      smallest_bucket: prompts and targets are padded to this or to a `bucket` above it.
      max_skipped_share: more unusable rows than this share end the run with a UserError.
    """
    if not len(examples):
        raise UserError("the data set is empty; expected at least one sample")

    def load(index: int) -> Row | BadRow:
        example = examples[index]
        chat = messages(example, paradigm, prompts)
        reply = []
        try:
            if targets:
                think = _uniform(seed, example.id) >= thought_dropout
                reply = processor.encode_target(target(example, paradigm, think=think))
                _check_length("target", len(reply), max_target_length)
            prompt = processor.encode(chat, example.images)
            _check_length("prompt", len(prompt.tokens), max_prompt_length)
        except BadRow as error:
            return BadRow(error.cause, f"sample {example.id}: {error}")
        return Row(example, prompt, processor.prompt_text(chat), reply)

    # Over indices and not the examples themselves, so that only the threads open or draw anything.
    indices = grain.MapDataset.source(range(len(examples)))
    if shuffle:
        # Hashed, because grain counts up from the seed by epoch: neighbouring seeds would share
        # all but one of their orders.
        indices = indices.shuffle(seed=int(_uniform(seed, "shuffle") * 2**32))
    threads = min(16, os.cpu_count() or 1)
    rows = indices.repeat(epochs).map(load)
    rows = rows.to_iter_dataset(
        grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(threads, min(2 * batch_size, 64))
        )
    )
    return Loader(
        rows,
        processor,
        batch_size=batch_size,
        max_lengths=(max_prompt_length, max_target_length),
        smallest_bucket=smallest_bucket,
        max_skipped_share=max_skipped_share,
    )


def _check_length(what: str, length: int, limit: int) -> None:
    if length > limit:
        raise BadRow(f"{what} too long", f"its {what} has {length} tokens, more than {limit}")


def _uniform(seed: int, name: str) -> float:
    """A number in [0, 1) that is a function of `seed` and `name`, the same on every machine."""
    text = f"{seed}/{name}".encode(errors="backslashreplace")
    digest = hashlib.blake2b(text, digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
