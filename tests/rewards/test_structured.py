"""JSON answers are equal if their values are."""

import types

import pytest

from rrft_jax import rewards
from rrft_jax.rewards import structured


@pytest.mark.parametrize(
    "answer, solution, right",
    [
        ("[10,10,60,60]", "[10, 10, 60, 60]", 1),
        ("[10, 10, 60, 60]", "[10,10,60,60]", 1),
        ("[10.0,10,60,6e1]", "[10, 10, 60, 60]", 1),
        ("[10,10,60,61]", "[10,10,60,60]", 0),
        ("[10,60,10,60]", "[10,10,60,60]", 0),
        ('{"b": [2], "a": 1}', '{"a":1,"b":[2.0]}', 1),
        ('{"a": 1}', '{"a": 1, "b": 2}', 0),
        ('{"a": true}', '{"a": 1}', 0),
        ('["cat"]', '["dog"]', 0),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 1),
        ("[" * 100_000, "[1]", 0),
        ("[" + "9" * 10_000 + "]", "[1]", 0),
        ("[1e999]", "[1]", 0),
    ],
)
@pytest.mark.parametrize("reward", ["accuracy", "math_accuracy"])
def test_values_count_and_not_their_spelling(reward, answer, solution, right):
    example = types.SimpleNamespace(answer=solution)
    assert rewards.score(reward, [f"<answer> {answer} </answer>"], example) == [right]


@pytest.mark.parametrize("text", ["", "3", '"a"', "null", "[1,", "{1}", "[1] and [2]", "a [1]"])
def test_other_texts_are_no_json(text):
    assert structured.read(text) is None
