"""A run's files become rows: each whole, in order, whatever is being written just now."""

import json

import pytest

from rrft_jax.monitoring import MetricsWriter
from rrft_jax.monitoring.trackers.files import RunFiles
from rrft_jax.monitoring.trackers.rows import Groups, Scalars, key, series_of

STEPS = {"sft": 100, "grpo": 50}
ROLLOUT = {"prompt": "p", "answer": "a", "completion": "c", "rewards": {}, "advantage": 0.0}


@pytest.fixture
def files(tmp_path):
    return RunFiles(tmp_path, STEPS)


def test_a_run_without_files_has_no_rows(files):
    assert list(files.new()) == []


def test_numbers_come_once_and_without_null(files, tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write("sft", 1, {"loss": 2, "kl": float("nan"), "note": "x", "flag": True})
    assert list(files.new()) == [Scalars("sft", 1, {"loss": 2.0})]
    assert list(files.new()) == []
    writer.write("sft", 2, {"loss": 1})
    assert list(files.new()) == [Scalars("sft", 2, {"loss": 1.0})]


def test_a_line_that_is_being_written_waits_for_its_end(files, tmp_path):
    line = json.dumps({"stage": "sft", "step": 1, "loss": 0.5}) + "\n"
    path = tmp_path / "metrics.jsonl"
    path.write_text(line[:9])
    assert list(files.new()) == []
    path.write_text(line + "{broken}\n[]\n")
    assert list(files.new()) == [Scalars("sft", 1, {"loss": 0.5})]


def test_a_rewritten_file_is_read_again(files, tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        writer.write("grpo", step, {})
    assert len(list(files.new())) == 3
    writer.truncate_after("grpo", 1)
    writer.write("grpo", 2, {"loss": 1})
    assert [row.step for row in files.new()] == [1, 2]


def test_the_completions_of_a_step_come_together_and_after_its_metrics(files, tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    metrics = MetricsWriter(tmp_path / "metrics.jsonl")
    rollouts = MetricsWriter(tmp_path / "rollouts.jsonl")
    pictures = ["a.png", "", "gone.png"]
    rollouts.write("grpo", 1, {**ROLLOUT, "id": "1", "pictures": pictures, "rewards": {"r": 1}})
    assert list(files.new()) == []
    rollouts.write("grpo", 1, {**ROLLOUT, "id": "2", "advantage": None})
    rollouts.write("grpo", 1, {**ROLLOUT, "id": "1", "completion": "d"})
    metrics.write("grpo", 1, {})
    _, row = files.new()
    assert isinstance(row, Groups) and (row.series, row.step) == ("grpo/rollouts", 1)
    first, second = row.groups
    assert first.pictures == [tmp_path / "a.png"] and second.pictures == []
    assert [own.text for own in first.completions] == ["c", "d"]
    assert first.completions[0].rewards == {"r": 1.0} and second.completions[0].advantage is None


def test_an_evaluation_stands_at_the_steps_of_all_stages_before_it(files, tmp_path):
    entry = {"accuracy": 0.5, "decoding": "greedy", "rewards": {"format": 0.25}, "parts": {}}
    names = ("start", "grpo@20", "sft@40", "sft", "grpo")
    results = {name: {"id": entry} for name in names} | {"skipped": {"sft": {"seen": 3}}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    rows = list(files.new())
    assert [row.step for row in rows] == [0, 40, 100, 120, 150]
    assert rows[0] == Scalars("evaluation/id", 0, {"accuracy": 0.5, "reward_format": 0.25})


@pytest.mark.parametrize("series", ["grpo", "grpo/rollouts", "evaluation/id-sampled"])
def test_the_name_of_a_value_tells_its_series(series):
    assert series_of(key(series, "reward_my/own")) == series
