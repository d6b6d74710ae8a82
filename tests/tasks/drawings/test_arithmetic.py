import math

import numpy as np
import pytest

from rrft_jax.tasks.drawings import arithmetic, structure


@pytest.mark.parametrize(
    "working, steps",
    [
        ("90 - 63", ["90 - 63"]),
        ("180 - 50 - 60", ["180 - 50 - 60", "130 - 60"]),
        ("180 - 2 * 61", ["180 - 2 * 61", "180 - 122"]),
        ("2 * (4 + 6)", ["2 * (4 + 6)", "2 * 10"]),
        ("(180 - 50) / 2", ["(180 - 50) / 2", "130 / 2"]),
        ("sqrt(1.5^2 + 2^2)", ["sqrt(1.5^2 + 2^2)", "sqrt(2.25 + 4)", "sqrt(6.25)"]),
        ("angle ABC", ["angle ABC"]),  # no sum at all
    ],
)
def test_a_working_is_done_one_operation_at_a_time(working, steps):
    assert arithmetic.worked(working) == steps


def test_every_step_of_every_puzzle_is_worth_its_value():
    rng, seen = np.random.default_rng(0), set()
    for _ in range(400):
        kind = rng.choice(structure.IN_DOMAIN + structure.SHIFTED)
        puzzle = kind(rng, *"ABCDEFGH")
        if "angle" in puzzle.working:
            continue
        for step in arithmetic.worked(puzzle.working):
            worth = eval(step.replace("^", "**"), {"sqrt": math.sqrt})
            assert worth == pytest.approx(puzzle.value), (puzzle.working, step)
        seen.add(kind)
    assert len(seen) > 15
