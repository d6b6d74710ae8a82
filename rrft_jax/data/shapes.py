"""The few shapes that batches come in: each compiles once, and all of them together pad little.

A row has three sizes: patches, prompt tokens, target tokens. Rows alike in cost share a shape, the
largest sizes among them, a little rounded up. The cuts between the groups are those that waste
least, found by dynamic programming over a sample of the data:

    rows     (64, 70, 12) (64, 72, 14) | (64, 80, 61) (64, 88, 75) | (256, 130, 80)
    shapes   (64, 72, 16)              | (64, 88, 80)              | (256, 136, 80)

The last shape holds every row of the sample, so that a batch of any of them has a shape.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

_WORTH = 0.95  # a further shape must bring the cost down to this


class Shape(NamedTuple):
    """The sizes of a row, or those that the rows of a batch are padded to."""

    patches: int
    prompt: int  # tokens
    target: int  # tokens; 0 without targets

    @property
    def cost(self) -> float:
        """Roughly what a row of this shape takes, in tokens: a patch is worth half of one."""
        return self.patches / 2 + self.prompt + self.target

    def holds(self, other: "Shape") -> bool:
        return all(mine >= theirs for mine, theirs in zip(self, other))


def choose(sizes: Iterable[Shape], limits: Shape, max_shapes: int) -> list[Shape]:
    """At most `max_shapes` shapes for rows of these sizes, from the cheapest up.

    Args:
      sizes: a sample of the rows, none beyond the limits; without any there are no shapes.
      limits: what no shape exceeds, however it's rounded.
      max_shapes: 1 or more; further ones are taken only where they save 5 % of the cost each.
    """
    rounded = [Shape(*(min(_round_up(n), top) for n, top in zip(row, limits))) for row in sizes]
    if not rounded:
        return []
    rows, counts = np.unique(np.array(rounded), axis=0, return_counts=True)
    # A row that nobody has ends each order, so that the last shape holds all.
    rows, counts = np.vstack([rows, rows.max(axis=0)]), np.append(counts, 0)
    # Two orders to cut: rows alike in cost, and, where text stands beside pictures, in patches.
    orders = np.argsort(rows @ [0.5, 1, 1], kind="stable"), np.arange(len(rows))
    cuts = [_cut(rows[order], counts[order], max_shapes) for order in orders]
    best = min(range(max_shapes), key=lambda m: _WORTH**-m * min(cut[m][0] for cut in cuts))
    _, shapes = min((cut[best] for cut in cuts), key=lambda found: found[0])
    return sorted(set(shapes), key=lambda shape: (shape.cost, shape))


def fit(shapes: Sequence[Shape], size: Shape, limits: Shape) -> Shape:
    """The cheapest of the shapes that holds `size`, or, beyond them all, a shape of its own.

    That one grows the last of the shapes along the axes that need it, in the steps of `bucket`.
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
    """The smallest shape that holds all of at least one."""
    return Shape(*(max(axis) for axis in zip(*sizes)))


def bucket(n: int, smallest: int = 64) -> int:
    """The size that `n` is padded to: 64, 96, 128, 192, 256, ...; 0 stays 0.

    At most a third of a row is padding, and the number of compiled shapes stays small.
    """
    if n == 0:
        return 0
    size = smallest
    while size < n:
        size *= 2
    between = size * 3 // 4
    return between if between >= max(n, smallest) else size


def _round_up(n: int) -> int:
    """To a multiple of a 32nd of the next power of two: at most a sixteenth is added."""
    step = max(8, 2 ** max(n - 1, 0).bit_length() // 32)
    return -(-n // step) * step


def _cut(
    rows: np.ndarray, counts: np.ndarray, max_groups: int
) -> list[tuple[float, tuple[Shape, ...]]]:
    """For 1, 2, ... groups of neighbouring rows: the least cost, and the groups' shapes.

    Args:
      rows: [N,3], in the order in which they may be cut.
      counts: [N], how often each row stands there.
      max_groups: how many groups there are at most; fewer where there are fewer rows.
    """
    n = len(rows)
    before = np.concatenate([[0], np.cumsum(counts)])
    # sizes[i, j]: of a group from row i to row j.
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
