"""Scores of an evaluation, and their uncertainty."""

import math
import random

import pytest

from rrft_jax.evaluation import scores


@pytest.mark.parametrize(
    "task, completion, answer, expected",
    [
        ("visual_counting", "<think>a</think><answer>4</answer>", "4", 1),
        ("visual_counting", "<answer>4.0</answer>", "4", 1),
        ("visual_counting", "<answer>4 things</answer>", "4", 1),
        ("visual_counting", "4", "4", 1),
        ("visual_counting", "<answer>5</answer>", "4", 0),
        ("visual_counting", "", "4", 0),
        ("visual_counting", "<answer>4</answer>", "<answer> 4 </answer>", 1),
        ("structure_perception", "<answer>B</answer>", "B", 1),
        ("structure_perception", r"<answer>$\frac{3}{2}$</answer>", "1.5", 1),
        ("spatial_transformation", "<answer>\nf(1,\n'a')\n</answer>", "f(1, 'a')", 1),
        ("spatial_transformation", "<answer>f(2, 'a')</answer>", "f(1, 'a')", 0.5),
    ],
)
def test_score(task, completion, answer, expected):
    assert scores.score(task, completion, answer) == expected


def test_summary():
    assert scores.summary([1, 0, 1, 1]) == {
        "accuracy": 0.75,
        "samples": 4,
        "standard_error": pytest.approx(math.sqrt(0.75 * 0.25 / 4)),
    }
    assert scores.summary([1])["standard_error"] == 0
    with pytest.raises(ValueError, match="no scores"):
        scores.summary([])


def test_paired_gain():
    gain, error = scores.paired_gain([0, 1, 0, 1], [1, 1, 0, 1])
    assert gain == 0.25
    assert error == pytest.approx(math.sqrt(0.25 * 0.75 / 4))
    with pytest.raises(ValueError):
        scores.paired_gain([0], [0, 1])


def test_pairing_removes_what_both_share():
    rng = random.Random(0)
    before = [float(rng.random() < 0.6) for _ in range(1000)]
    after = [max(score, float(rng.random() < 0.1)) for score in before]
    _, error = scores.paired_gain(before, after)
    alone = [scores.summary(values)["standard_error"] for values in (before, after)]
    assert error < math.hypot(*alone) / 2


def test_a_trend_compares_the_first_quarter_with_the_last():
    assert scores.trend([1, 3, 9, 9, 9, 9, 5, 7]) == (2, 6, math.sqrt(0.5 + 0.5), 2)


def test_a_trend_of_too_few_values_has_no_error_to_tell():
    with pytest.raises(ValueError, match="7 values"):
        scores.trend([1, 3, 9, 9, 9, 9, 5])
