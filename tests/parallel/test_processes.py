"""Whole runs in several processes: the numbers of one, also after a signal and after a death."""

import json
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from rrft_jax import main
from tests.parallel import runs

HEARTBEAT = 10  # seconds


def lines(file):
    clocked = ("seconds", "tokens_per_second", "compilations")
    rows = map(json.loads, file.read_text().splitlines())
    return [{k: v for k, v in row.items() if not k.startswith(clocked)} for row in rows]


def assert_same(got, want, where):
    """Equal, but for the rounding of numbers."""
    if isinstance(want, dict):
        assert got.keys() == want.keys(), where
        for key in want:
            assert_same(got[key], want[key], f"{where}.{key}")
    elif isinstance(want, list):
        assert len(got) == len(want), where
        for i, (a, b) in enumerate(zip(got, want)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        near = pytest.approx(want, rel=1e-4, abs=2e-5) if isinstance(want, float) else want
        assert got == near, where


def until(processes, metrics, text):
    """Waits for a line of a step to appear."""
    deadline = time.time() + 300
    while not (metrics.exists() and text in metrics.read_text()):
        assert time.time() < deadline and all(one.poll() is None for one in processes)
        time.sleep(0.05)


def test_a_reward_that_fails_in_a_row_of_two_processes_is_counted_once(tmp_path):
    program = ["-m", "tests.parallel.sharing", f"127.0.0.1:{runs.free_port()}", "{}"]
    outputs = runs.said(runs.launch(2, program, tmp_path), tmp_path)
    assert all("rows 3 failures 3\n" in output for output in outputs), outputs


def test_what_one_of_two_processes_can_not_read_both_leave_out(tmp_path):
    folder = str(tmp_path / "sft")
    program = ["-m", "tests.parallel.restoring", f"127.0.0.1:{runs.free_port()}", "{}", folder]
    outputs = runs.said(runs.launch(2, program, tmp_path), tmp_path)
    told = "after {'batches': 1} same True kept ['1', '2']\n"
    assert all("step 2 is incomplete" in one and told in one for one in outputs), outputs


def test_an_evaluation_in_streams_is_the_same_in_two_processes(tmp_path):
    settings = [
        f"--config={runs.ROOT}/configs/eval.py:paradigm=zero_shot",
        f"--config.model.path={runs.write_model(tmp_path / 'model')}",
        "--config.mesh.data=2",
        "--config.mesh.fsdp=2",
        "--config.eval.samples=22",  # so that the last batch is not full
        "--config.eval.batch_size=4",
        "--config.eval.temperature=2.0",  # lengths from one token to all
        "--config.eval.max_new_tokens=12",
        "--config.eval.sampled=False",
    ]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main.main([*settings, f"--workdir={alone}"]) == 0
    code = (
        "import sys; from rrft_jax import main; from rrft_jax.rollout import stream; "
        "stream.batches_together = lambda: 3; sys.exit(main.main(sys.argv[1:]))"
    )
    settings.append(f"--workdir={together}")
    two = runs.start(2, 2, settings, tmp_path / "two", program=("-c", code))
    outputs = runs.said(two, tmp_path / "two")
    assert [one.returncode for one in two] == [0, 0], outputs
    file = "predictions-id.jsonl"
    assert_same(lines(together / file), lines(alone / file), file)
    assert len({len(row["tokens"]) for row in lines(alone / file)}) > 3


@pytest.mark.slow
def test_a_run_goes_through_two_processes_and_four_to_the_numbers_of_one(tmp_path):
    settings = [
        *runs.SETTINGS,
        f"--config.model.path={runs.write_model(tmp_path / 'model')}",
        f"--config.data.path={runs.write_data(tmp_path / 'data')}",
    ]
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert main.main([*settings, f"--workdir={alone}"]) == 0
    settings.append(f"--workdir={together}")
    metrics = together / "metrics.jsonl"

    # A signal to one stops both, behind the same step.
    two = runs.start(2, 2, settings, tmp_path / "two", HEARTBEAT)
    until(two, metrics, '"stage": "sft", "step": 1,')
    two[1].send_signal(signal.SIGTERM)
    outputs = runs.said(two, tmp_path / "two")
    assert [one.returncode for one in two] == [0, 0], outputs
    assert "the same command resumes" in outputs[0] and "resumes" not in outputs[1]

    # One that dies takes the others with it, soon.
    four = runs.start(4, 1, settings, tmp_path / "four", HEARTBEAT)
    until(four, metrics, '"stage": "grpo", "step": 2,')
    four[2].kill()
    killed = time.time()
    outputs = runs.said(four, tmp_path / "four")
    assert time.time() - killed < 2 * HEARTBEAT
    assert all(one.returncode for one in four), outputs
    assert not (together / "export").exists()

    # What they left is gone on with by one.
    assert main.main(settings) == 0
    for name in (
        "metrics.jsonl", "rollouts.jsonl", "predictions-id.jsonl",
        "evaluations/start/predictions-id.jsonl", "evaluations/sft/predictions-id.jsonl",
    ):  # fmt: skip
        assert_same(lines(together / name), lines(alone / name), name)
    assert sum(row["replaced_groups"] for row in lines(metrics) if row["stage"] == "grpo") > 0
    results = [json.loads((folder / "results.json").read_text()) for folder in (together, alone)]
    assert_same(*results, "results.json")
    assert results[0]["skipped"]["grpo"]["causes"]["picture"] > 0
    skipped = [
        set((folder / "skipped.jsonl").read_text().splitlines()) for folder in (together, alone)
    ]
    assert skipped[0] == skipped[1]
    ours, theirs = (
        load_file(folder / "export" / "model.safetensors") for folder in (together, alone)
    )
    for name, weight in theirs.items():
        np.testing.assert_allclose(ours[name], weight, atol=1e-4, err_msg=name)
