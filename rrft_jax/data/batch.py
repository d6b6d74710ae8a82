"""`Batch`: the rows of one process, padded to one shape, and a few facts about all rows.

A row is the prompt of one sample, and its target if there is one to learn.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rrft_jax.data.samples import Row, Samples, Source
from rrft_jax.data.shapes import Shape
from rrft_jax.models.prompt import Prompt
from rrft_jax.tasks.example import Example


@dataclasses.dataclass
class Batch:
    """The B rows of one process, and a few facts about the rows of all processes.

    The last batch of a finite loader may have fewer `examples` than rows. Its other rows repeat a
    real row, or borrow another sample, to keep the shape. Their completion mask is False.
    """

    prompt: Prompt  # NumPy arrays
    examples: list[Example]
    rows: list[int]  # the row of each example in the arrays
    sources: list[Source]  # the data set of each example
    prompt_texts: list[str]  # one per example, for people to read
    completions: np.ndarray | None  # [B,1,T] int32, padded on the right; None without targets
    completion_mask: np.ndarray | None  # [B,1,T] bool
    row_ids: list[int]  # of the B rows in the batch of all processes
    # Of all processes:
    ids: list[str] = dataclasses.field(default_factory=list)  # of the examples, in order
    tokens: int = 0  # of the prompts and completions
    padding: dict[str, float] = dataclasses.field(default_factory=dict)  # shares, by kind


def make_batch(
    samples: Samples,
    rows: Sequence[Row],
    shape: Shape,
    row_ids: Sequence[int],
    kept: Sequence[int] | None = None,
) -> Batch:
    """Pad rows to one shape and stack them.

    Args:
      samples: the samples that the rows were made from.
      rows: at most B rows; the last of them is repeated until there are B.
      shape: the size of every row.
      row_ids: the places of the B rows in the batch of all processes.
      kept: the rows that are examples; None is all of them.
    """
    size, kept = len(row_ids), range(len(rows)) if kept is None else kept
    padded = [*rows, *rows[-1:] * (size - len(rows))]
    processor = samples.processor
    prompt = processor.batch([row.prompt for row in padded], shape.prompt, shape.patches)
    completions = mask = None
    if samples.form.targets:
        completions = np.full((size, 1, shape.target), processor.pad_token, np.int32)
        mask = np.zeros(completions.shape, bool)
        for b, row in enumerate(padded):
            completions[b, 0, : len(row.target)] = row.target
            mask[b, 0, : len(row.target)] = b in kept
    return Batch(
        prompt=prompt,
        examples=[rows[b].example for b in kept],
        rows=list(kept),
        sources=[samples.sources[rows[b].source] for b in kept],
        prompt_texts=[rows[b].text for b in kept],
        completions=completions,
        completion_mask=mask,
        row_ids=list(row_ids),
    )


def used(batch: Batch, b: int) -> tuple[int, int]:
    """Return the numbers of patches and tokens of a row that are not padding."""
    tokens = batch.prompt.mask[b].sum()
    if batch.completion_mask is not None:
        tokens = tokens + batch.completion_mask[b].sum()
    return int((batch.prompt.patch_image[b] >= 0).sum()), int(tokens)
