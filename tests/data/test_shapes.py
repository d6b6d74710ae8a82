"""The chosen shapes hold every row, are few, and pad little."""

import itertools

import numpy as np
import pytest

from rrft_jax.data import bucket
from rrft_jax.data.shapes import Shape, choose, fit, fixed, union

LIMITS = Shape(2**31, 4096, 2048)


def _rows(number=200, seed=0):
    """Pictures of many sizes, with questions and replies of many lengths."""
    rng = np.random.default_rng(seed)
    patches = 4 * rng.integers(16, 400, number)
    text, reply = rng.integers(30, 200, number), rng.integers(10, 400, number)
    return [Shape(*map(int, row)) for row in zip(patches, patches // 4 + text, reply)]


def _cost(rows, shapes):
    return sum(fit(shapes, row, LIMITS).cost for row in rows)


@pytest.mark.parametrize("max_shapes", [1, 2, 4])
def test_every_row_fits_one_of_a_few_shapes(max_shapes):
    rows = _rows()
    shapes = choose(rows, LIMITS, max_shapes)
    assert 1 <= len(shapes) <= max_shapes
    assert all(fit(shapes, row, LIMITS) in shapes for row in rows)
    assert shapes[-1].holds(union(rows))


def test_more_shapes_cost_less():
    rows = _rows()
    costs = [_cost(rows, choose(rows, LIMITS, m)) for m in (1, 2, 3, 4)]
    assert all(fewer >= more for fewer, more in itertools.pairwise(costs))
    assert costs[1] < 0.9 * costs[0] and costs[-1] < 0.8 * costs[0]


def test_the_choice_is_the_best_of_all_cuts():
    rows = sorted(_rows(9), key=lambda row: row.cost)
    shapes = choose(rows, LIMITS, 2)
    whole = choose(rows, LIMITS, 1)
    every = [choose(rows[:cut], LIMITS, 1) + whole for cut in range(1, 9)]
    assert len(shapes) == 2 and _cost(rows, shapes) <= min(_cost(rows, cut) for cut in every)


def test_alike_rows_share_one_shape():
    rows = [Shape(64, 60 + n % 5, 0) for n in range(100)]
    assert choose(rows, LIMITS, 4) == [Shape(64, 64, 0)]
    assert choose([], LIMITS, 4) == []


def test_text_beside_pictures_pays_for_no_patches():
    rng = np.random.default_rng(0)
    texts = [Shape(0, int(n), 0) for n in rng.integers(100, 1000, 100)]
    pictures = [Shape(1156, 289 + int(n), 0) for n in rng.integers(50, 100, 100)]
    shapes = choose(texts + pictures, LIMITS, 4)
    assert all(fit(shapes, row, LIMITS).patches == 0 for row in texts)
    assert all(fit(shapes, row, LIMITS).prompt < 500 for row in pictures)
    assert fit(shapes, union(texts + pictures), LIMITS) in shapes


@pytest.mark.parametrize("size", [64, 1156, 289, 4000])
def test_rounding_adds_a_sixteenth_at_most(size):
    (shape,) = choose([Shape(size, size, min(size, 2048))], LIMITS, 1)
    assert size <= shape.patches <= size * 17 / 16
    assert shape.prompt <= 4096 and shape.target <= 2048


def test_no_shape_exceeds_the_limits():
    limits = Shape(2**31, 70, 30)
    (shape,) = choose([Shape(16, 70, 30)], limits, 4)
    assert (shape.prompt, shape.target) == (70, 30)
    assert fit([Shape(16, 64, 16)], Shape(16, 70, 30), limits) == Shape(16, 70, 30)


def test_rows_beyond_all_shapes_get_one_in_coarse_steps():
    shapes = [Shape(64, 72, 16), Shape(128, 80, 16)]
    beyond = {fit(shapes, Shape(64, n, 16), LIMITS) for n in range(81, 385)}
    assert beyond == {Shape(128, n, 16) for n in (96, 128, 192, 256, 384)}
    assert fit([], Shape(0, 65, 0), LIMITS) == Shape(0, 96, 0)


def test_buckets():
    sizes = [bucket(n) for n in (0, 1, 64, 65, 96, 97, 128, 129, 193, 257)]
    assert sizes == [0, 64, 64, 96, 96, 128, 128, 192, 256, 384]
    assert [bucket(n, 16) for n in (1, 17, 25, 33)] == [16, 24, 32, 48]


def test_single_questions_have_few_fixed_shapes():
    for text in (5, 60, 120):
        sizes = [Shape(4 * visual, visual + text, 0) for visual in range(4, 350)]
        assert len({fixed(size) for size in sizes}) == 1
        for visual in range(0, 4000, 37):
            size = Shape(4 * visual, visual + text, 0)
            assert fixed(size).holds(size)
            assert bool(fixed(size).patches) == bool(visual)
