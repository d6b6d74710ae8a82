"""Which evaluated step of a stage was its best."""

import pytest

from rrft_jax.evaluation.best import best_step, final_rows


def _results(**accuracies):
    rows = {name.replace("_", "@"): _row(value) for name, value in accuracies.items()}
    return rows | {"skipped": {}}


def _row(accuracy, samples=10):
    return {"id": {"accuracy": accuracy, "samples": samples}}


@pytest.mark.parametrize(
    "results, expected",
    [
        (_results(), None),
        (_results(start=0.9, sft_8=0.7), None),
        (_results(grpo_20=0.5), 20),
        (_results(grpo_20=0.5, grpo_100=0.4, grpo=0.3), 20),
        (_results(grpo_20=0.5, grpo_100=0.6, grpo=0.3), 100),
        (_results(grpo_20=0.5, grpo=0.6), 120),
        (_results(grpo_20=0.5, grpo_40=0.5), 40),
        (_results(grpo_20=0.5, grpo=0.5), 120),
    ],
)
def test_the_best_step_is_the_last_of_the_highest(results, expected):
    assert best_step(results, "grpo", 120, "id") == expected


def test_a_split_that_was_not_evaluated_decides_nothing():
    assert best_step(_results(grpo_20=0.5), "grpo", 120, "ood") is None


def test_accuracies_on_other_samples_are_not_compared():
    results = {"grpo@20": _row(0.9), "grpo@40": _row(0.5, 20), "grpo@60": _row(0.4, 20)}
    assert best_step(results, "grpo", 120, "id") == 40
    assert best_step(results | {"grpo": _row(0.3)}, "grpo", 120, "id") == 20


def test_the_last_table_has_the_ends_of_the_stages_and_their_best():
    results = _results(start=0.1, sft_8=0.3, sft=0.2, grpo_20=0.5, grpo_40=0.4, grpo=0.45)
    rows = final_rows(results, {"grpo": 20})
    assert list(rows) == ["start", "sft", "grpo", "grpo, best (step 20)"]
    assert rows["grpo, best (step 20)"]["id"]["accuracy"] == 0.5


def test_a_reward_decides_where_it_is_asked_for_or_where_there_is_no_accuracy():
    def entry(iou, **fields):
        means = {"iou": {"mean": iou}, "reward": {"mean": -iou}}
        return {"id": {"samples": 10, "rewards": means, **fields}}

    results = {"grpo@20": entry(0.5), "grpo": entry(0.4)}
    assert best_step(results, "grpo", 40, "id", "iou") == 20
    assert best_step(results, "grpo", 40, "id") == 40  # by their weighted sum
    assert best_step(results, "grpo", 40, "id", "accuracy") is None
    results = {"grpo@20": entry(0.1, accuracy=0.9), "grpo": entry(0.2, accuracy=0.8)}
    assert best_step(results, "grpo", 40, "id") == 20
    assert best_step(results, "grpo", 40, "id", "iou") == 40
