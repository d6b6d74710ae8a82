"""`skipped.jsonl` holds each sample once, whoever meets it again; the first process writes it."""

import json

from rrft_jax.data import BadSample
from rrft_jax.data.skipped import SkippedLog
from rrft_jax.parallel import distributed

PICTURE = BadSample("picture", "sample é: truncated")


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_sample_is_written_once_for_each_stage_or_split(tmp_path):
    file = tmp_path / "skipped.jsonl"
    SkippedLog(file)
    assert not file.exists()
    log = SkippedLog(file)
    for where in ("sft", "sft", "id"):
        log.report(where)(PICTURE)
    told = {"cause": "picture", "reason": "sample é: truncated"}
    assert lines(file) == [{"where": "sft", **told}, {"where": "id", **told}]


def test_a_run_that_goes_on_adds_only_new_samples(tmp_path):
    file = tmp_path / "skipped.jsonl"
    SkippedLog(file).report("sft")(PICTURE)
    report = SkippedLog(file).report("sft")
    report(PICTURE)
    report(BadSample("malformed", "sample b: no answer"))
    assert [line["cause"] for line in lines(file)] == ["picture", "malformed"]


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "is_host0", lambda: False)
    file = tmp_path / "skipped.jsonl"
    SkippedLog(file).report("sft")(PICTURE)
    assert not file.exists()
