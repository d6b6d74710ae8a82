"""The results of a run are printed again from its folder, whole or half-done."""

import json

import pytest

from rrft_jax import command, workdir
from rrft_jax.evaluation import scores
from rrft_jax.evaluation.results import Results
from rrft_jax.monitoring import MetricsWriter
from rrft_jax.report import __main__ as command_line
from rrft_jax.report import printed
from tests.evaluation.files import ours, tagged

STEPS = {"sft": 4, "grpo": 3 * scores.TREND_VALUES}


@pytest.fixture
def run(tmp_path, capsys):
    """A folder as a run leaves it, and what the run printed at its end."""
    config, _ = command.parse(["--config=configs/grpo.py"])
    folder = tmp_path / "run"
    workdir.claim(config, folder, "weights")
    results = Results(folder, STEPS, "id")
    for name, right in {"start": 1, "sft": 2, "grpo@20": 4, "grpo": 3}.items():
        answers = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]
        rows = [(key, tagged(n if int(n) <= right else "9"), n) for key, n in answers]
        ours(results.predictions(name, "id"), rows)
        entry = {"accuracy": right / 4, "standard_error": 0.1, "samples": 4, "decoding": "greedy"}
        results.add(name, "id", entry)
    metrics = MetricsWriter(folder / "metrics.jsonl")
    for stage, steps in STEPS.items():
        for step in range(1, steps + 1):
            metrics.write(stage, step, {"reward": step / steps} if stage == "grpo" else {})
    printed.report(config, results, metrics.values("grpo", "reward"), folder)
    return folder, capsys.readouterr().out


def test_the_report_is_the_one_of_the_run_s_end(run, capsys):
    folder, said = run
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert command_line.main([str(folder)]) == 0
    assert capsys.readouterr().out == said
    assert "| grpo, best (step 20)" in said and "sft -> grpo, id: +25.0" in said
    assert "grpo, mean reward of its own samples" in said
    after = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert after.pop(folder / "report.html") and after == before


def test_a_run_that_goes_on_reports_what_it_has(run, capsys):
    folder, _ = run
    rows = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({"start": rows["start"], "sft": rows["sft"]}))
    (folder / "metrics.jsonl").write_text('{"stage": "sft", "step": 4}\n')
    assert command_line.main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "| sft" in said and "| grpo" not in said and "start -> sft, id: +25.0" in said


def test_a_run_of_the_release_before_is_reported(run, capsys):
    folder, said = run
    config = json.loads((folder / "config.json").read_text())
    config["grpo"]["num_samples"] = config["grpo"].pop("num_generations")
    (folder / "config.json").write_text(json.dumps(config))
    assert command_line.main([str(folder)]) == 0
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("metrics.jsonl", "", "no results yet; they come with the run's first evaluation"),
        ("config.json", '{"model_type": "qwen2_vl"}', "not the folder of a run; expected one with"),
        ("config.json", None, "not the folder of a run; expected one with"),
        ("config.json", "[", "config.json: not JSON"),
    ],
)
def test_a_folder_without_results_is_named(run, capsys, name, content, message):
    folder, _ = run
    (folder / "results.json").unlink()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    assert command_line.main([str(folder)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and message in said.err and said.err.count("\n") == 1
    assert str(folder) in said.err


def test_a_gain_on_other_samples_is_that_of_the_common_ones(run, capsys):
    """A run that went on with another `eval.samples` has finished evaluations of the old number."""
    folder, _ = run
    results = Results(folder, STEPS, "id")
    ours(results.predictions("start", "id"), [("a", tagged("9"), "1"), ("b", tagged("2"), "2")])
    assert command_line.main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "start -> sft, id: +50.0 ± 35.4 points (paired, on the 2 samples of both)" in said
    assert "sft -> grpo, id: +25.0 ± 21.7 points (paired)" in said
