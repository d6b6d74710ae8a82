"""The few shapes of batches: each is compiled once, and together they need little padding.

A row has three sizes: patches, prompt tokens, target tokens. Rows of similar cost share a shape:
the largest sizes among them, rounded up a little. Dynamic programming over a sample of the data
finds the groups of rows that waste least:

    rows     (64, 70, 12) (64, 72, 14) | (64, 80, 61) (64, 88, 75) | (256, 130, 80)
    shapes   (64, 72, 16)              | (64, 88, 80)              | (256, 136, 80)

The last shape holds every row of the sample, so that a batch of any of them has a shape.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_WORTH = 0.95  # a further shape must bring the cost down to this


class Shape(NamedTuple):
    """The sizes of a row, or the sizes that all rows of a batch are padded to."""

    patches: int
    prompt: int  # tokens
    target: int  # tokens; 0 without targets

    @property
    def cost(self) -> float:
        """The rough cost of a row of this shape, in tokens; a patch counts as half a token."""
        return self.patches / 2 + self.prompt + self.target

    def holds(self, other: "Shape") -> bool:
        """Return whether a row of the other shape fits into this one."""
        return all(mine >= theirs for mine, theirs in zip(self, other))


def choose(sizes: Iterable[Shape], limits: Shape, max_shapes: int) -> list[Shape]:
    """Return at most `max_shapes` shapes for rows of these sizes, cheapest first.

    Args:
      sizes: the sizes of a sample of rows, none beyond the limits. No sizes give no shapes.
      limits: no shape exceeds them, even after rounding.
      max_shapes: 1 or more; each further shape is taken only if it saves 5 % of the cost.
    """
    rounded = [Shape(*(min(_round_up(n), top) for n, top in zip(row, limits))) for row in sizes]
    if not rounded:
        return []
    rows, counts = np.unique(np.array(rounded), axis=0, return_counts=True)
    # An extra row of the largest sizes ends each order, so that the last shape holds every row.
    rows, counts = np.vstack([rows, rows.max(axis=0)]), np.append(counts, 0)
    # Two orders to cut: by cost, and by patches for data that mixes text and pictures.
    orders = np.argsort(rows @ [0.5, 1, 1], kind="stable"), np.arange(len(rows))
    cuts = [_cut(rows[order], counts[order], max_shapes) for order in orders]
    best = min(range(max_shapes), key=lambda m: _WORTH**-m * min(cut[m][0] for cut in cuts))
    _, shapes = min((cut[best] for cut in cuts), key=lambda found: found[0])
    return sorted(set(shapes), key=lambda shape: (shape.cost, shape))


def fit(shapes: Sequence[Shape], size: Shape, limits: Shape) -> Shape:
    """Return the cheapest shape that holds `size`.

    If none holds it, return the last shape, enlarged in the steps of `bucket` where it must be.
    """
    for shape in shapes:
        if shape.holds(size):
            return shape
    largest = shapes[-1] if shapes else Shape(0, 0, 0)
    grown = (
        have if have >= need else min(bucket(need), limit)
        for have, need, limit in zip(largest, size, limits)
    )
    return Shape(*grown)


def union(sizes: Iterable[Shape]) -> Shape:
    """Return the smallest shape that holds all sizes; there must be at least one."""
    return Shape(*(max(axis) for axis in zip(*sizes)))


def bucket(n: int, smallest: int = 64) -> int:
    """Return the size that `n` is padded to: 64, 96, 128, 192, 256, ...; 0 stays 0.

    So at most a third of a row is padding, and few shapes are compiled.
    """
    if n == 0:
        return 0
    size = smallest
    while size < n:
        size *= 2
    between = size * 3 // 4
    return between if between >= max(n, smallest) else size


def fixed(size: Shape) -> Shape:
    """Return the first of a few fixed shapes that holds a row, whatever the sizes of its pictures.

    Questions that come one at a time share their programs this way. The first shape holds a picture
    of some 1,800 patches, and a short question.
    """
    prompt = bucket(size.prompt, smallest=512)
    # A token stands for four patches, so the prompt's tokens bound the patches.
    return Shape(4 * prompt if size.patches else 0, prompt, bucket(size.target))


def _round_up(n: int) -> int:
    """Round up to a multiple of a 32nd of the next power of two; this adds at most a sixteenth."""
    step = max(8, 2 ** max(n - 1, 0).bit_length() // 32)
    return -(-n // step) * step


def _cut(
    rows: np.ndarray, counts: np.ndarray, max_groups: int
) -> list[tuple[float, tuple[Shape, ...]]]:
    """Return the least cost and the groups' shapes, for 1, 2, ... groups of neighbouring rows.

    Args:
      rows: [N,3], in the order in which they are cut.
      counts: [N], how often each row occurs.
      max_groups: the most groups; there are fewer if there are fewer rows.
    """
    n = len(rows)
    before = np.concatenate([[0], np.cumsum(counts)])
    # sizes[i, j]: the shape of a group from row i to row j.
    sizes = np.zeros((n, n, 3), int)
    for i in range(n):
        sizes[i, i:] = np.maximum.accumulate(rows[i:])
    cost = (before[None, 1:] - before[:-1, None]) * (sizes @ [0.5, 1, 1])
    cost[np.tril_indices(n, -1)] = np.inf
    least, starts, found = cost[0], [np.zeros(n, int)], []
    for m in range(max_groups):
        if m:
            # The last group starts at row i, those before it end at row i - 1.
            together = np.concatenate([[np.inf], least[:-1]])[:, None] + cost
            starts.append(together.argmin(axis=0))
            least = together.min(axis=0)
        shapes, end = [], n - 1
        for start in reversed(starts if np.isfinite(least[-1]) else []):
            shapes.append(Shape(*map(int, sizes[start[end], end])))
            end = start[end] - 1
        found.append((float(least[-1]), tuple(shapes)))
    return found
