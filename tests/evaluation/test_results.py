"""`results.json` holds each change, and forgets the evaluations of steps that come again."""

import dataclasses
import json

import pytest

from rrft_jax import command
from rrft_jax.evaluation.results import Results, shown_name

STEPS = {"sft": 4, "grpo": 6}


def entry(accuracy):
    return {"accuracy": accuracy, "standard_error": 0.0, "samples": 10}


@pytest.fixture
def results(tmp_path):
    results = Results(tmp_path, STEPS, "id")
    for name, accuracy in {"start": 0.1, "sft@2": 0.4, "sft": 0.3, "grpo@2": 0.5}.items():
        results.add(name, "id", entry(accuracy))
    return results


def test_each_change_is_in_the_file_and_is_read_again(results, tmp_path):
    assert json.loads((tmp_path / "results.json").read_text()) == results.rows
    again = Results(tmp_path, STEPS, "id")
    assert again.rows == results.rows
    assert again.has("sft", "id") and not again.has("sft", "ood") and not again.has("grpo", "id")


def test_the_best_step_is_that_of_the_deciding_split(results):
    assert results.best_step("sft") == 2 and results.best_step("grpo") == 2
    assert results.better_steps() == {"sft": 2, "grpo": 2}
    results.add("grpo", "id", entry(0.9))
    assert results.best_step("grpo") == 6 and results.better_steps() == {"sft": 2}


def test_a_reward_may_decide_and_is_named_with_its_value(tmp_path):
    results = Results(tmp_path, STEPS, "id", "iou")
    for name, iou in (("grpo@2", 0.25), ("grpo", 0.125)):
        own = {"mean": iou, "standard_error": 0.0}
        results.add(name, "id", entry(iou) | {"rewards": {"iou": own, "reward": own}})
    assert results.best_step("grpo") == 2 and results.deciding_value("grpo@2") == "iou 0.250"
    results.metric = ""
    assert results.deciding_value("grpo@2") == "25.0 %"
    del results.rows["grpo"]["id"]["accuracy"]
    assert results.deciding_value("grpo") == "reward 0.125"


def test_a_stage_that_goes_on_earlier_forgets_its_later_evaluations(results, capfd):
    for name in ("sft", "sft@2", "grpo@2", "grpo@4"):
        file = results.predictions(name, "id")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_name(file.name + ".partial").touch()
    results.forget_after("sft", 2)
    assert results.has("sft@2", "id") and not results.has("sft", "id")
    assert list(results.rows) == ["start", "sft@2", "sft", "grpo@2"]  # it keeps its place
    assert "the evaluation sft is repeated" in capfd.readouterr().err
    left = {
        name
        for name in ("sft", "sft@2", "grpo@2", "grpo@4")
        if list(results.predictions(name, "id").parent.glob("*.partial"))
    }
    assert left == {"sft@2", "grpo@2", "grpo@4"}


def test_predictions_of_the_last_stage_are_in_the_folder_itself(results, tmp_path):
    assert results.predictions("grpo", "a/id") == tmp_path / "predictions-a-id.jsonl"
    assert results.predictions("sft", "id").parent == tmp_path / "evaluations" / "sft"
    alone = Results(tmp_path, {}, "id")
    assert alone.predictions("start", "id") == tmp_path / "predictions-id.jsonl"


@pytest.mark.parametrize(
    "stages, path, shown",
    [
        ((), "", "tiny"),
        ((), "models/Qwen2-VL-2B-Instruct/", "Qwen2-VL-2B-Instruct"),
        ((), "runs/counting/export", "counting"),
        (("sft",), "runs/counting", "start"),
    ],
)
def test_an_evaluation_alone_is_called_by_its_model(stages, path, shown):
    config, _ = command.parse(["--config=configs/sft.py", f"--config.model.path={path}"])
    assert shown_name(dataclasses.replace(config, stages=stages), "start") == shown
