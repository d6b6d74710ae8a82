"""The rewards of an evaluation's completions, as they stand in its rows."""

import types

from rrft_jax.evaluation.rewarding import count_failures, reward_rows
from rrft_jax.rewards import read_terms
from rrft_jax.tasks import Example

TEXT = "<think>a</think><answer>3</answer>"


def test_a_row_has_each_reward_and_their_weighted_sum():
    terms = read_terms({"accuracy": 1.0, "format": 0.5})
    example = types.SimpleNamespace(answer="3")
    rows = reward_rows(terms, [TEXT, "3", ""], example)
    assert [row["rewards"] for row in rows] == [
        {"accuracy": 1, "format": 1, "reward": 1.5},
        {"accuracy": 1, "format": 0, "reward": 1},
        {"accuracy": 0, "format": 0, "reward": 0},
    ]
    assert [list(row["rewards"])[-1] for row in rows] == ["reward"] * 3
    assert not count_failures(rows)


def test_without_rewards_nothing_is_added():
    assert reward_rows([], ["a", "b"], None) == [{}, {}]


def test_a_completion_that_a_reward_fails_on_says_why():
    example = Example("a", (), "Where?", "", None, "custom", extra={"boxes": [3]})
    rows = reward_rows(read_terms({"tests.rewards.victims.of_row": 2}), ["3", "three"], example)
    assert [row["rewards"]["reward"] for row in rows] == [2, 0]
    assert "reward_failures" not in rows[0]
    assert rows[1]["reward_failures"]["tests.rewards.victims.of_row"].startswith("ValueError")
    assert count_failures(rows) == {"tests.rewards.victims.of_row": 1}
