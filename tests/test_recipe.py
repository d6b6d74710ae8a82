"""Whole runs of the tiny model: they improve, stop and resume, and end in the promised files."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jax.profiler import ProfileData
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rrft_jax import export, main
from rrft_jax.assets import TINY
from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.hf import load_pretrained
from rrft_jax.tasks.drawings import counting

ROOT = Path(__file__).resolve().parents[1]
GRPO = f"--config={ROOT}/configs/grpo.py"
EVAL = f"--config={ROOT}/configs/eval.py"
SHORT = [
    "--config.mesh.data=1",
    "--config.sft.batch_size=16",
    "--config.grpo.steps=2",
    "--config.grpo.batch_size=4",
    "--config.grpo.num_generations=4",
    "--config.sampling.max_new_tokens=32",
    "--config.eval.samples=16",
    "--config.eval.batch_size=16",
    "--config.eval.max_new_tokens=32",
    "--config.eval.sampled=False",
    "--config.checkpoint_every=2",
    "--config.rollouts_every=1",
]
TIMES = ("seconds", "tokens_per_second", "compilations")


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(workdir: Path, *arguments: str) -> None:
    assert main.main([GRPO, f"--workdir={workdir}", *SHORT, *arguments]) == 0


def numbers(workdir: Path) -> list[dict]:
    """metrics.jsonl without what a clock measured, or the process counted."""
    return [
        {key: value for key, value in line.items() if not key.startswith(TIMES)}
        for line in lines(workdir / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run, uninterrupted."""
    workdir = tmp_path_factory.mktemp("finished")
    run(workdir, "--config.sft.steps=4")
    return workdir


def test_a_run_leaves_the_promised_files(finished):
    results = json.loads((finished / "results.json").read_text())
    assert list(results) == ["start", "sft", "grpo"]
    for splits in results.values():
        assert set(splits) == {"id", "ood"}
        for entry in splits.values():
            assert 0 <= entry["accuracy"] <= 1 and entry["samples"] == 16
            assert entry["standard_error"] >= 0 and entry["decoding"] == "greedy"
    metrics = lines(finished / "metrics.jsonl")
    assert [(m["stage"], m["step"]) for m in metrics] == [
        *(("sft", step) for step in (1, 2, 3, 4)),
        *(("grpo", step) for step in (1, 2)),
    ]
    assert set(metrics[-1]) >= {
        "loss", "reward", "reward_std", "reward_accuracy", "reward_format", "reward_format_std",
        "kl", "mismatch_kl", "clip_fraction", "flat_groups", "replaced_groups", "sampled_batches",
        "entropy", "completion_length", "truncated_share", "gradient_norm",
        "learning_rate", "tokens_per_second", "seconds_sample", "seconds_rewards", "seconds_update",
        "padding_patches", "padding_tokens", "skipped_samples", "compilations", "seconds_step",
    }  # fmt: skip
    counts = [m["compilations"] for m in metrics]
    assert 0 < counts[0] and counts == sorted(counts)
    rollouts = lines(finished / "rollouts.jsonl")
    assert len(rollouts) == 2 * 2 * 4
    for row in rollouts:
        assert row["reward"] == pytest.approx(sum(row["rewards"].values()))
        assert "".join(row["pieces"]).startswith(row["completion"])
        lengths = {len(row[f"{name}_log_probs"]) for name in ("rollout", "reference")}
        assert lengths == {len(row["pieces"])}
        assert row["problem"] in row["prompt"] and isinstance(row["advantage"], float)
    predictions = lines(finished / "predictions-id.jsonl")
    for row in (*rollouts, *predictions):
        (name,) = row["pictures"]
        assert (finished / name).is_file()
    assert json.loads((finished / "config.json").read_text())["seed"] == 0
    page = (finished / "report.html").read_text()  # written after the last evaluation
    assert '"row":"grpo"' in page and page.count("data:image/jpeg") >= 16


def test_predictions_hold_all_that_a_score_came_from(finished):
    rows = lines(finished / "predictions-id.jsonl")
    rows = {row["id"]: row for row in rows}
    assert len(rows) == 16
    for index in range(16):
        example = counting.sample("id", 0, index, TINY_SIZE)
        row = rows[example.id]
        assert (row["problem"], row["answer"]) == (example.problem, example.answer)
        assert example.problem in row["prompt"]
        assert len(row["tokens"]) == len(row["log_probs"]) <= 32
        assert max(row["log_probs"]) <= 0
    results = json.loads((finished / "results.json").read_text())
    assert np.mean([r["score"] for r in rows.values()]) == results["grpo"]["id"]["accuracy"]
    assert len(lines(finished / "evaluations" / "start" / "predictions-ood.jsonl")) == 16


def test_the_export_is_what_the_last_stage_ended_with(finished):
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

    theirs = Qwen2VLForConditionalGeneration.from_pretrained(finished / "export")
    assert (
        len(AutoTokenizer.from_pretrained(finished / "export"))
        <= theirs.config.text_config.vocab_size
    )
    _, params = load_pretrained(finished / "export")
    _, base = load_pretrained(TINY)
    weight = params["language"]["layers"]["q"]["kernel"][1]
    np.testing.assert_array_equal(
        weight.T, theirs.model.language_model.layers[1].self_attn.q_proj.weight.detach().numpy()
    )
    assert (
        np.abs(weight - base["language"]["layers"]["q"]["kernel"][1].astype(weight.dtype)).max() > 0
    )


def test_the_last_checkpoint_exported_by_its_command_is_the_export(finished, tmp_path):
    out = tmp_path / "out"
    assert export.main([str(finished), f"--out={out}"]) == 0
    written = {file.name: file.read_bytes() for file in out.iterdir()}
    assert written == {file.name: file.read_bytes() for file in (finished / "export").iterdir()}


def test_the_same_command_again_does_nothing_twice(finished):
    before = numbers(finished)
    run(finished, "--config.sft.steps=4")
    assert numbers(finished) == before


def test_another_config_in_the_same_folder_is_refused(finished, capsys):
    code = main.main([GRPO, f"--workdir={finished}", *SHORT, "--config.sft.steps=5"])
    assert code == 1
    assert "sft.steps is 4 there and 5 here" in capsys.readouterr().err


@pytest.mark.slow
def test_more_steps_in_the_folder_or_in_a_branch_come_to_the_same(finished, tmp_path, capfd):
    """A branch has the weights, the optimizer and the place in the data; so has a longer run."""
    longer = ["--config.sft.steps=4", "--config.grpo.steps=3"]
    shutil.copytree(finished, tmp_path / "grown")
    run(tmp_path / "grown", *longer)
    said = capfd.readouterr().err
    assert "resumes with grpo.steps=3 instead of 2 (its learning rate decays" in said
    assert "grpo: the evaluation grpo is repeated" in said
    run(tmp_path / "branch", *longer, f"--branch_from={finished}:grpo@2")
    said = capfd.readouterr().err
    assert f"{tmp_path / 'branch'} begins at {finished}:grpo@2" in said
    assert "grpo: resumes after step 2 of 3" in said
    grown = numbers(tmp_path / "grown")
    assert grown[:-1] == numbers(finished) and grown[-1:] == numbers(tmp_path / "branch")
    for name in ("results.json", "export/model.safetensors"):
        of_both = [(tmp_path / folder / name).read_bytes() for folder in ("grown", "branch")]
        assert of_both[0] == of_both[1], name
    shutil.rmtree(tmp_path / "grown")
    run(tmp_path / "branch", *longer)  # goes on by itself
    assert numbers(tmp_path / "branch") == grown[-1:]


@pytest.mark.slow
def test_a_finished_stage_with_a_half_copied_end_goes_on_from_the_one_before(
    finished, tmp_path, capfd
):
    """The next stage, whose checkpoints are whole, stays as it is."""
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    (again / "checkpoints" / "sft" / "4" / "state" / "manifest.ocdbt").write_bytes(b"")
    run(again, "--config.sft.steps=4")
    said = capfd.readouterr().err
    assert "sft: resumes after step 2 of 4" in said and "the evaluation sft is repeated" in said
    assert "grpo: resumes after step 2 of 2" in said

    def key(line):
        return line["stage"], line["step"]

    assert sorted(numbers(again), key=key) == sorted(numbers(finished), key=key)
    for name in ("results.json", "table.md", "rollouts.jsonl", "export/model.safetensors"):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_numbers(finished, tmp_path):
    command = [sys.executable, "-m", "rrft_jax.main", GRPO, f"--workdir={tmp_path}", *SHORT]
    command.append("--config.sft.steps=4")
    command += ["--config.trackers=tensorboard", "--config.profile=grpo@1:2"]
    metrics = tmp_path / "metrics.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage, number in (("sft", signal.SIGTERM), ("grpo", signal.SIGINT)):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        deadline = time.time() + 300
        while process.poll() is None and time.time() < deadline:
            if metrics.exists() and f'"stage": "{stage}"' in metrics.read_text():
                process.send_signal(number)
                break
            time.sleep(0.02)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "the same command resumes the run" in errors
    run(tmp_path, "--config.sft.steps=4", "--config.trackers=tensorboard")
    assert numbers(tmp_path) == numbers(finished)
    shown = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0}).Reload()
    for tag, steps in (("sft/loss", [1, 2, 3, 4]), ("grpo/reward", [1, 2])):
        assert [event.step for event in shown.Scalars(tag)] == steps
    own = {line["step"]: line["loss"] for line in numbers(finished) if line["stage"] == "sft"}
    told = {event.step: event.value for event in shown.Scalars("sft/loss")}
    assert told == pytest.approx(own)
    assert [event.step for event in shown.Scalars("evaluation/id/accuracy")] == [0, 4, 6]
    for events in (
        shown.Tensors("grpo/rollouts/group_0"),
        shown.Images("grpo/rollouts/group_0_picture_0"),
    ):
        assert [event.step for event in events] == [1, 2]
    # The profile was written at Ctrl-C, with the parts of a step and the names of programs.
    profiles = list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))
    planes = [plane for file in profiles for plane in ProfileData.from_file(str(file)).planes]
    parts = {event.name for plane in planes for line in plane.lines for event in line.events}
    assert parts >= {"sample", "rewards", "reference", "update", "grpo"}
    content = b"".join(file.read_bytes() for file in profiles)
    for program in (b"jit(advance)/sample/", b"jit(score)/score/", b"jit(grpo_step)/update/"):
        assert program in content


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run_and_the_checkpoint_before_it_stays(tmp_path, capsys):
    too_large = ["--config.sft.learning_rate=1e38", "--config.sft.warmup_steps=0"]
    often = ["--config.checkpoint_every=1", "--config.sft.steps=4"]
    assert main.main([GRPO, f"--workdir={tmp_path}", *SHORT, *too_large, *often]) == 1
    kept = tmp_path / "checkpoints" / "sft" / "1"
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: sft, step 2: loss is nan; ") and str(kept) in error
    assert [step.name for step in kept.parent.iterdir()] == ["1"]
    assert [m["loss"] is None for m in lines(tmp_path / "metrics.jsonl")] == [False, True]
    # A single step has a loss that is a number; what it leaves answers with none.
    once = [*SHORT, *too_large, "--config.sft.steps=1", f"--workdir={tmp_path / 'once'}"]
    assert main.main([GRPO, *once]) == 1
    assert "error: sft: id: a log-probability of sample" in capsys.readouterr().err
    for run in (tmp_path, tmp_path / "once"):
        assert list(json.loads((run / "results.json").read_text())) == ["start"]
        assert not (run / "export").exists()


@pytest.mark.slow
def test_a_shortened_demo_improves_on_its_start(tmp_path):
    arguments = [
        "--config.sft.steps=120",
        "--config.grpo.steps=2",
        "--config.eval.samples=128",
        "--config.eval.batch_size=128",
        "--config.eval.sampled=False",
    ]
    # In a process of its own, as on a laptop: one device, and code that is optimised.
    command = [sys.executable, "-m", "rrft_jax.main", GRPO, f"--workdir={tmp_path}", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["sft"]["id"]["accuracy"] > results["start"]["id"]["accuracy"] + 0.1
    metrics = lines(tmp_path / "metrics.jsonl")
    assert metrics[119]["loss"] < 0.1 * metrics[0]["loss"]
    rewards = [m["reward"] for m in metrics if m["stage"] == "grpo"]
    assert min(rewards) > 0.9  # of 2: format holds, and some answers are right


GREEDY = [arg for arg in SHORT if arg.startswith(("--config.eval.", "--config.mesh."))]


def test_a_finished_run_is_evaluated_by_its_folder(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    command = [EVAL, *GREEDY, f"--config.model.path={tmp_path}/run", f"--workdir={tmp_path}/eval"]
    assert main.main(command) == 0
    for split in ("id", "ood"):
        name = f"predictions-{split}.jsonl"
        assert (tmp_path / "eval" / name).read_text() == (finished / name).read_text()
    # What lies there today is another checkpoint: its results don't belong beside the others.
    weights = tmp_path / "run" / "export" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-400_000] + bytes(400_000))
    assert main.main(command) == 1
    assert "the checkpoint that it started from has changed since" in capsys.readouterr().err


def test_without_a_better_step_there_is_one_export(finished):
    assert not (finished / "export-best").exists()
    assert "best" not in (finished / "table.md").read_text()


@pytest.fixture
def dataset(tmp_path):
    """Six questions on no picture, one, or two; one file is no picture, one row has no answer."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(6):
        picture = counting.sample("train", 0, i, 56 if i % 2 else 84).images[0]
        names = [f"{i}-{k}.png" for k in range(i % 3)]
        for name in names:
            picture.convert("RGBA" if i == 2 else "RGB").save(folder / "images" / name)
        rows.append(
            {"id": str(i), "image": names, "problem": "How many?", "answer": str(i),
             "cot": "I count."}
        )  # fmt: skip
    (folder / "images" / "4-0.png").write_bytes(b"no picture")
    (folder / "Visual-Counting-id-test-1k.json").write_text(json.dumps(rows))
    del rows[1]["answer"]
    (folder / "Visual-Counting-train-cot.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.slow
def test_rows_of_no_picture_one_or_several_run_through_all_stages(dataset, tmp_path, capfd):
    transformation = {"id": "t", "problem": "What happened?", "answer": "change_size(0, 'small')"}
    (tmp_path / "steps.jsonl").write_text(json.dumps(transformation))
    mixture = [
        {"path": "data"},
        {"path": "steps.jsonl", "task": "spatial_transformation", "system_prompt": "Be brief.",
         "rewards": {"transformation_full": 1, "format": 0.5}},
    ]  # fmt: skip
    (tmp_path / "mix.json").write_text(json.dumps(mixture))
    run(
        tmp_path / "run",
        "--config.sft.steps=2",
        "--config.sft.batch_size=4",
        "--config.grpo.steps=2",
        "--config.grpo.micro_batches=2",
        f"--config.data.path={dataset}",
        f"--config.data.mixture={tmp_path}/mix.json",
        "--config.data.buckets=1",
        f"--config.model.path={TINY}",
        "--config.mesh.data=2",
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["grpo"]["id"]["samples"] == 5
    assert results["grpo"]["id"]["skipped"] == {"picture": 1}
    for stage in ("sft", "grpo"):
        skipped = results["skipped"][stage]
        assert set(skipped["causes"]) == {"picture", "malformed"}
        # Of the five to seven samples of an epoch two are bad.
        assert sum(skipped["causes"].values()) < skipped["seen"] / 2
    told = lines(tmp_path / "run" / "skipped.jsonl")
    assert {(line["where"], line["cause"]) for line in told} == {
        ("id", "picture"), *itertools.product(("sft", "grpo"), ("picture", "malformed")),
    }  # fmt: skip
    assert len(told) == 5 and any("sample 1: no answer" in line["reason"] for line in told)
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert {m["stage"]: m["skipped_samples"] for m in metrics} == {
        stage: sum(entry["causes"].values()) for stage, entry in results["skipped"].items()
    }
    assert all(np.isfinite(m["loss"]) for m in metrics)
    rollouts = lines(tmp_path / "run" / "rollouts.jsonl")
    for row in rollouts:
        right = "transformation_full" if "Be brief." in row["prompt"] else "accuracy"
        assert set(row["rewards"]) == {right, "format"}
    said = capfd.readouterr().err
    assert "sft: step programs: 1" in said and "picture" in said and "malformed" in said


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: [f"--config.model.path={path}/none"], "none"),
        (lambda path: [f"--config.data.path={path}/none"], "none"),
        (lambda path: [f"--config.data.path={path}"], "no"),
        (lambda path: ["--config.grpo.batch_size=3", "--config.mesh.data=2"], "multiple of 2"),
        (lambda path: ["--config.mesh.data=64"], "64 devices"),
        (lambda path: ["--config.best_split=x"], "expected one of id, id-sampled, ood"),
        (lambda path: [f"--branch_from={path}"], "not the folder of a run"),
        (lambda path: ["--config.profile=grpo@1:9", "--config.grpo.steps=2"], "grpo has 2 steps"),
    ],
    ids=[
        "no checkpoint",
        "no data",
        "empty data",
        "batch and mesh",
        "too few devices",
        "no split",
        "no branch",
        "no step to profile",
    ],
)
def test_mistakes_end_in_one_line_and_leave_no_folder(make, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = [GRPO, f"--workdir={tmp_path}/run", *make(tmp_path / "empty")]
    assert main.main(arguments) == 1
    *before, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ") and message in error
    assert all(line.startswith("settings of the packaged model's demo") for line in before)
    assert not (tmp_path / "run").exists()


def test_targets_that_the_runs_rewards_refuse_end_it_at_once(dataset, tmp_path, capfd):
    rewards = [f"--config.grpo.rewards.{term}" for term in ("accuracy=0", "transformation=1")]
    arguments = [GRPO, f"--workdir={tmp_path / 'run'}", f"--config.data.path={dataset}", *rewards]
    assert main.main(arguments) == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: the targets of SFT get 0 for the answer by the run's own transf")
    assert not (tmp_path / "run").exists()


def test_a_file_without_a_well_formed_row_is_an_error(dataset, tmp_path, capsys):
    file = dataset / "Visual-Counting-train-cot.json"
    rows = [{**row, "answer": None} for row in json.loads(file.read_text())]
    file.write_text(json.dumps(rows))
    code = main.main([GRPO, f"--workdir={tmp_path}/run", f"--config.data.path={dataset}"])
    assert code == 1
    error = capsys.readouterr().err
    assert "sample 0: no answer" in error and file.name in error
    assert not (tmp_path / "run").exists()
