"""What a page holds is what the run's files say."""

import json
import shutil

import pytest

from rrft_jax.evaluation.results import Results
from rrft_jax.report import content as contents
from rrft_jax.report.content import content
from rrft_jax.report.run import Run, read_metrics
from tests.evaluation.files import tagged
from tests.report.files import STEPS, write_run


@pytest.fixture
def folder(tmp_path):
    return write_run(tmp_path / "run")


def of(*folders):
    """The content of a page, as the browser gets it."""
    return json.loads(json.dumps(content([Run.read(folder) for folder in folders])))


def test_curves_have_every_metric_over_steps_and_summed_minutes(folder):
    curves = of(folder)["runs"][0]["curves"]
    assert list(curves) == ["sft", "grpo", "held out"]
    assert curves["grpo"]["reward"] == pytest.approx([n / 6 for n in range(1, 7)], rel=1e-5)
    assert curves["grpo"]["minutes"] == pytest.approx([n / 20 for n in range(1, 7)])
    held_out = curves["held out"]
    assert held_out["step"] == [0, 4, 10] and held_out["minutes"] == [0, 0.2, 0.5]
    assert held_out["accuracy, id"] == [0.25, 0.5, 0.75]
    assert all(low < high for low, high in zip(*(held_out[f"accuracy, id {n}"] for n in EDGES)))


EDGES = ("low", "high")


def test_a_run_under_way_tells_how_many_steps_are_done(folder):
    config, steps = Run.read(folder).config, {"sft": 4, "grpo": 40}
    run = Run(folder, config, read_metrics(folder), Results(folder, steps, "id"))
    stages = [(one["done"], one["steps"]) for one in content([run])["runs"][0]["stages"]]
    assert stages == [(4, 4), (6, 40)]


def test_evaluations_of_one_moment_are_both_in_the_curve(folder):
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"sft@4": results["sft"]}))
    assert of(folder)["runs"][0]["curves"]["held out"]["step"] == [0, 4, 4, 10]


def test_of_many_steps_evenly_spaced_ones_are_taken_and_the_last(folder, monkeypatch):
    monkeypatch.setattr(contents, "STEPS", 3)
    curves = of(folder)["runs"][0]["curves"]
    assert curves["grpo"]["step"] == [2, 4, 6] and curves["sft"]["step"] == [2, 4]


def test_the_headline_has_paired_gains_of_the_stages(folder):
    run = of(folder)["runs"][0]
    values = [(one["name"], one["value"]) for one in run["headline"]["values"]]
    assert values == [("start", 0.25), ("sft", 0.5), ("grpo", 0.75)]
    gains = [(one["from"], one["to"], one["gain"]) for one in run["headline"]["gains"]]
    assert gains == [("start", "sft", 0.25), ("sft", "grpo", 0.25)]
    assert [stage["steps"] for stage in run["stages"]] == [*STEPS.values()]
    assert run["facts"]["rewards"] == "accuracy x 1, format x 1"


def test_the_facts_tell_how_the_weights_are_trained(folder):
    assert not {"adapter", "tuning"} & of(folder)["runs"][0]["facts"].keys()
    begun = json.loads((folder / "config.json").read_text())
    begun["model"]["adapter"], begun["lora"] = "first-lora", {"rank": 8, "alpha": 16.0}
    (folder / "config.json").write_text(json.dumps(begun))
    facts = of(folder)["runs"][0]["facts"]
    assert (facts["adapter"], facts["tuning"]) == ("first-lora", "LoRA of rank 8, alpha 16")


def test_examples_are_samples_that_the_run_has_learnt_and_one_that_it_has_not(folder):
    page = of(folder)
    samples = page["splits"]["id"]["samples"]
    assert [samples[n]["id"] for n in page["examples"]["samples"]] == ["1", "2", "3"]


def test_samples_are_matched_by_id_and_answer(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    file = other / "predictions-id.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["answer"] = "8"  # of other data
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = of(folder, other)["splits"]["id"]
    assert split["number"] == len(split["samples"]) == 5
    ends = [one for one in split["evaluations"] if one["row"] == "grpo"]
    assert [one["worth"] for one in ends] == [[1, 1, 1, 0, None], [None, 1, 1, 0, 0]]
    assert [[one is None for one in end["said"]] for end in ends] == [
        [False] * 4 + [True],
        [True] + [False] * 4,
    ]


def test_samples_left_out_are_counted_by_stage_and_cause(folder):
    results = json.loads((folder / "results.json").read_text())
    results["skipped"] = {"sft": {"seen": 9, "causes": {"malformed": 1}}}
    (folder / "results.json").write_text(json.dumps(results))
    skipped = of(folder)["runs"][0]["skipped"]
    assert skipped["counts"] == [
        {"where": "sft", "seen": 9, "cause": "malformed", "number": 1},
        {"where": "id", "seen": 6, "cause": "picture", "number": 2},
    ]
    assert skipped["number"] == len(skipped["reasons"]) == 1


def test_a_run_of_an_older_release_opens(folder):
    for file, kept in (
        ("rollouts.jsonl", ("id", "prompt", "answer", "completion", "rewards", "advantage")),
        ("predictions-id.jsonl", ("id", "task", "answer", "completion")),
    ):
        rows = map(json.loads, (folder / file).read_text().splitlines())
        kept = ("stage", "step", *kept)
        old = [{key: row[key] for key in kept if key in row} for row in rows]
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in old))
    shutil.rmtree(folder / "pictures")
    page = of(folder)
    (first, *_) = page["runs"][0]["groups"]["groups"]
    assert first["problem"].startswith("<|im_start|>") and first["pictures"] == []
    assert "pieces" not in first["said"][0] and first["said"][0]["finished"]


def test_a_run_without_held_out_data_or_before_its_first_step_has_what_there_is(folder):
    (folder / "results.json").write_text("{}")
    page = of(folder)
    assert page["splits"] == page["examples"] == {} and page["runs"][0]["rows"] == []
    assert "grpo" in page["runs"][0]["curves"]


def test_a_better_step_stands_beside_the_end_of_its_stage(folder):
    results = json.loads((folder / "results.json").read_text())
    results["grpo@3"] = {"id": {**results["grpo"]["id"], "accuracy": 1.0}}
    (folder / "results.json").write_text(json.dumps(results))
    step = folder / "evaluations" / "grpo@3"
    step.mkdir()
    rows = (folder / "predictions-id.jsonl").read_text().replace(tagged("9"), tagged("3"))
    (step / "predictions-id.jsonl").write_text(rows)
    page = of(folder)
    names = [row["name"] for row in page["runs"][0]["rows"]]
    assert names == ["start", "sft", "grpo@3, best", "grpo"]
    assert page["runs"][0]["curves"]["held out"]["step"] == [0, 4, 7, 10]
