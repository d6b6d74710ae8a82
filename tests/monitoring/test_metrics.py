"""Metrics files: valid JSON whatever comes, and as if never interrupted."""

import json

import jax.numpy as jnp
import numpy as np

from rrft_jax.monitoring import MetricsWriter


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_writes_what_json_can_say(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write("sft", 1, {"loss": jnp.float32(0.5), "n": np.int64(3), "text": "größer"})
    writer.write("sft", 2, {"loss": float("nan"), "kl": jnp.inf, "means": np.array([1.0, np.inf])})
    assert read(path) == [
        {"stage": "sft", "step": 1, "loss": 0.5, "n": 3, "text": "größer"},
        {"stage": "sft", "step": 2, "loss": None, "kl": None, "means": [1.0, None]},
    ]


def test_a_lone_surrogate_is_replaced(tmp_path):
    """JSON can hold one, and so can a question; UTF-8 cannot."""
    path = tmp_path / "rollouts.jsonl"
    MetricsWriter(path).write("grpo", 1, {"prompt": "a \ud800 b", "answer": {"\udfff": "ö"}})
    assert read(path) == [
        {"stage": "grpo", "step": 1, "prompt": "a ? b", "answer": {"?": "ö"}},
    ]


def test_truncates_one_stage_and_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    for stage, step in [("sft", 1), ("sft", 2), ("sft", 3), ("grpo", 1), ("grpo", 2)]:
        writer.write(stage, step, {})
    writer.truncate_after("grpo", 1)
    writer.write("grpo", 2, {"again": True})
    assert [(line["stage"], line["step"]) for line in read(path)] == [
        ("sft", 1),
        ("sft", 2),
        ("sft", 3),
        ("grpo", 1),
        ("grpo", 2),
    ]
    assert read(path)[-1]["again"]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_torn_line_goes_when_the_file_is_opened(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsWriter(path).write("sft", 1, {"loss": 1.0})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"stage": "sft", "step": 2, "lo')
    MetricsWriter(path).write("sft", 2, {"loss": 2.0})
    assert [line["loss"] for line in read(path)] == [1.0, 2.0]


def test_values_are_those_of_one_stage_without_null(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    for step, reward in enumerate([0.5, float("nan"), 0.75], 1):
        writer.write("grpo", step, {"reward": reward})
        writer.write("sft", step, {"loss": 1.0, "reward": 9.0})
    assert writer.values("grpo", "reward") == [0.5, 0.75]
    assert writer.values("grpo", "loss") == []
