"""Evaluations of whole runs: tasks and passes, taken up again, beside the paper, the best step."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import rrft_jax
from rrft_jax import main
from rrft_jax.assets import TINY
from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.evaluation import rescore
from rrft_jax.hf import load_pretrained
from rrft_jax.monitoring import interrupts
from rrft_jax.rewards import score
from rrft_jax.rollout import stream
from rrft_jax.tasks.drawings import counting
from tests import thinking

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SFT, EVAL = (f"--config={CONFIGS / name}" for name in ("sft.py", "eval.py"))


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """`evaluated(workdir)` evaluates two tasks zero-shot, three completions a sample."""

    def make(workdir):
        arguments = [
            "--config.eval.tasks=visual_counting,structure_perception",
            "--config.eval.passes=3",
            "--config.eval.temperature=2.0",
            "--config.eval.samples=5",
            "--config.eval.batch_size=2",
            "--config.eval.max_new_tokens=12",
            "--config.eval.sampled=False",
            "--config.eval.rewards.repetition=1",
            "--config.eval.rewards.tags=0.5",
        ]
        assert main.main([f"{EVAL}:paradigm=zero_shot", *arguments, f"--workdir={workdir}"]) == 0
        return workdir

    return make, make(tmp_path_factory.mktemp("evaluated"))


def test_several_tasks_are_evaluated_with_several_completions_a_sample(evaluated, capsys):
    _, folder = evaluated
    results = json.loads((folder / "results.json").read_text())["start"]
    splits = [
        f"{t}/{s}" for t in ("visual_counting", "structure_perception") for s in ("id", "ood")
    ]
    assert list(results) == splits
    for name in splits:
        entry, rows = results[name], lines(folder / f"predictions-{name.replace('/', '-')}.jsonl")
        assert (entry["samples"], entry["passes"], len(rows)) == (5, 3, 15)
        assert [row["pass"] for row in rows] == [0, 1, 2] * 5
        samples = [rows[start : start + 3] for start in range(0, 15, 3)]
        assert [len({row["id"] for row in sample}) for sample in samples] == [1] * 5
        assert max(len({row["completion"] for row in sample}) for sample in samples) > 1
        assert {row["task"] for row in rows} == {name.split("/")[0]}
        assert all("<think>" not in row["prompt"] and "alone" in row["prompt"] for row in rows)
        for key, accuracy in (("score", "accuracy"), ("score_reference", "accuracy_reference")):
            assert entry[accuracy] == pytest.approx(np.mean([row[key] for row in rows]))
        for reward in ("repetition", "tags", "reward"):
            values = [row["rewards"][reward] for row in rows]
            assert entry["rewards"][reward]["mean"] == pytest.approx(np.mean(values))
    parts = results["structure_perception/id"]["parts"]
    assert sum(part["samples"] for part in parts.values()) == 5
    assert set(parts) <= {"choice", "non_choice"} and "parts" not in results["visual_counting/id"]
    table = (folder / "table.md").read_text()
    assert all(name in table for name in splits) and "choice" in table and "paper" not in table
    assert "| mean reward" in table and "repetition" in table


def test_an_evaluation_that_was_killed_goes_on_to_the_same_files(evaluated, tmp_path):
    make, folder = evaluated
    shutil.copytree(folder, tmp_path / "again")
    again = tmp_path / "again"
    results = json.loads((again / "results.json").read_text())
    for name in ("structure_perception/id", "structure_perception/ood"):
        del results["start"][name]
    (again / "results.json").write_text(json.dumps(results))
    # One split was half done, in the middle of a batch and of a line; the other one not begun.
    begun = again / "predictions-structure_perception-id.jsonl"
    rows = begun.read_bytes().splitlines(keepends=True)
    begun.with_name(begun.name + ".partial").write_bytes(b"".join(rows[:10]) + rows[10][:50])
    begun.unlink()
    (again / "predictions-structure_perception-ood.jsonl").unlink()
    kept = (again / "predictions-visual_counting-id.jsonl").stat().st_mtime_ns
    make(again)
    assert (again / "predictions-visual_counting-id.jsonl").stat().st_mtime_ns == kept
    files, files_again = (
        sorted(file.relative_to(run) for file in run.rglob("*.*") if file.suffix != ".html")
        for run in (folder, again)
    )
    assert files_again == files
    for name in files:
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


def test_beside_published_files_stand_the_paper_s_rows(tmp_path, capsys):
    row = {"id": "a", "problem": "How many?", "answer": "1", "level": 2}
    (tmp_path / "Visual-Counting-id-test-1k.json").write_text(json.dumps([row, row]))
    # The tiny model under the name of a large one: the table goes by the name.
    command = [f"{EVAL}:model=2b", f"--config.model.path={TINY}", f"--config.data.path={tmp_path}"]
    command += ["--config.eval.temperature=0.5", "--config.eval.max_new_tokens=8"]
    assert main.main([*command, f"--workdir={tmp_path}/run"]) == 0
    written = lines(tmp_path / "run" / "predictions-id.jsonl")[1]
    assert list(written)[:3] == ["id", "task", "part"] and written["extra"] == {"level": 2}
    table = (tmp_path / "run" / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| tiny, reference scoring" in table and "paper: Reason-RFT-Zero" in table
    assert "98.40" in table and "level 2" in table
    assert "temperature 0.5, top-k 50, top-p 0.9" in table


def test_rows_without_answers_are_evaluated_by_rewards_that_see_their_columns(tmp_path, capsys):
    rows = [{"id": name, "problem": "Where?", "boxes": [1] * n} for n, name in enumerate("abc")]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    reward = "tests.rewards.victims.boxes"
    command = [f"{EVAL}:task=custom", f"--config.data.path={tmp_path}", "--config.mesh.data=1"]
    command += ["--config.eval.max_new_tokens=4", "--config.eval.samples=3"]
    assert main.main([*command, f"--workdir={tmp_path}/run"]) == 1
    said = capsys.readouterr().err
    assert "test: none of the first 3 samples has an answer, so there is no accuracy" in said
    command += [f"--config.eval.rewards.{reward}=2", f"--workdir={tmp_path}/run"]
    assert main.main(command) == 0
    entry = json.loads((tmp_path / "run/results.json").read_text())["start"]["test"]
    assert "accuracy" not in entry and entry["rewards"][reward]["mean"] == 1
    assert entry["rewards"]["reward"]["mean"] == 2
    written = lines(tmp_path / "run/predictions-test.jsonl")
    assert [row["extra"] for row in written] == [{"boxes": row["boxes"]} for row in rows]
    assert [row["rewards"][reward] for row in written] == [0, 1, 2]
    assert not any("score" in row for row in written)
    table = (tmp_path / "run/table.md").read_text()
    assert "accuracy" not in table and "1.000 ± 0.471" in table


@pytest.fixture(scope="module")
def worsened(tmp_path_factory):
    """`worsened(workdir)` trains so badly that the first evaluation is the best.

    The right answer to every shifted question is whatever the base replies to it.
    """
    data = tmp_path_factory.mktemp("data")
    length = "--config.eval.max_new_tokens=16"
    rows = []
    for i in range(12):
        example = counting.sample("train", 0, i, TINY_SIZE)
        example.images[0].convert("RGB").save(data / f"{i}.png")
        rows.append(
            {"id": str(i), "image": f"{i}.png", "problem": example.problem, "answer": "none"}
        )
    for split in ("train", "id-test", "ood-test"):
        (data / f"Visual-Counting-{split}.json").write_text(json.dumps(rows))
    asked = [f"{EVAL}:paradigm=ans_sft", f"--config.data.path={data}", length]
    assert main.main([*asked, f"--workdir={data}/run"]) == 0
    replies = [row["completion"] for row in lines(data / "run" / "predictions-ood.jsonl")]
    shifted = [row | {"answer": reply} for row, reply in zip(rows, replies) if reply.strip()]
    (data / "Visual-Counting-ood-test.json").write_text(json.dumps(shifted))

    def make(workdir):
        arguments = [
            f"--config.data.path={data}",
            "--config.sft.steps=4",
            "--config.mesh.data=1",
            "--config.sft.batch_size=4",
            "--config.sft.warmup_steps=2",  # the first step changes nothing
            "--config.sft.learning_rate=1.0",
            "--config.eval_every=1",
            "--config.best_split=ood",
            "--config.eval.sampled=False",
            length,
        ]
        assert main.main([f"{SFT}:paradigm=ans_sft", *arguments, f"--workdir={workdir}"]) == 0
        return workdir

    return make, make(tmp_path_factory.mktemp("worsened"))


def test_the_best_weights_are_kept_and_exported_beside_the_last(worsened, capsys):
    make, folder = worsened
    results = json.loads((folder / "results.json").read_text())
    assert list(results) == ["start", "sft@1", "sft@2", "sft@3", "sft"]
    assert results["sft@1"] == results["start"] and results["sft@1"]["ood"]["accuracy"] == 1
    assert results["sft"]["ood"]["accuracy"] < 1
    kept = sorted(file.name for file in (folder / "checkpoints" / "sft").iterdir())
    assert kept == ["1", "3", "4"]
    (_, best), (_, last), (_, base) = (
        load_pretrained(path, "float32")
        for path in (folder / "export-best", folder / "export", TINY)
    )
    for tree, same in ((best, True), (last, False)):
        weight, start = (t["language"]["layers"]["q"]["kernel"] for t in (tree, base))
        assert np.array_equal(weight, start) == same
    make(folder)  # says the same again
    out, err = capsys.readouterr()
    assert "sft: best on ood after step 1 of 4" in err and "export-best" in err
    table = (folder / "table.md").read_text()
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert rows[2:] == ["start", "sft", "sft, best (step 1)"] and table in out


def test_best_weights_that_are_half_copied_are_named_and_not_exported(worsened, tmp_path, capfd):
    make, folder = worsened
    shutil.copytree(folder, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "export-best")
    (tmp_path / "again" / "checkpoints" / "sft" / "1" / "state" / "_METADATA").unlink()
    make(tmp_path / "again")
    assert "which is incomplete and is not exported: state/_METADATA is" in capfd.readouterr().err
    assert not (tmp_path / "again" / "export-best").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["crashed", "half copied"])
def test_a_resumed_run_keeps_the_same_best_weights(how, worsened, tmp_path):
    make, folder = worsened
    shutil.copytree(folder, tmp_path / "again")
    again = tmp_path / "again"
    for name in ("export", "export-best"):
        shutil.rmtree(again / name)
    if how == "crashed":  # while the third step was evaluated
        shutil.rmtree(again / "checkpoints" / "sft" / "4")
        shutil.rmtree(again / "evaluations" / "sft@3")
        results = json.loads((again / "results.json").read_text())
        del results["sft@3"], results["sft"]
        (again / "results.json").write_text(json.dumps(results))
    else:  # evaluations of weights that aren't there any more, one of them under way
        for step in ("3", "4"):
            (again / "checkpoints" / "sft" / step / "loader" / "metadata").write_bytes(b"")
        rows = (again / "evaluations" / "sft@3" / "predictions-ood.jsonl").read_text()
        begun = again / "evaluations" / "sft@3" / "predictions-ood.jsonl.partial"
        begun.write_text(rows.replace('"score": 1', '"score": 0.5'))
        (again / "predictions-id.jsonl.partial").write_text("{}\n")
    make(again)
    for name in (
        "results.json", "table.md", "predictions-ood.jsonl", "export/model.safetensors",
        "export-best/model.safetensors", "evaluations/sft@3/predictions-id.jsonl",
    ):  # fmt: skip
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name
    assert not list(again.rglob("*.partial"))
    kept = sorted(file.name for file in (again / "checkpoints" / "sft").iterdir())
    assert kept == ["1", "3", "4"]


def test_predictions_of_a_thinking_model_are_whole_replies(tmp_path):
    """The file, its scores, questions from Python and `rescore` agree on the prompt's open tag."""
    model, run = thinking.make(tmp_path / "model"), tmp_path / "run"
    samples = [{"id": name, "problem": f"How many {name}?", "answer": "1"} for name in "ab"]
    (tmp_path / "test.json").write_text(json.dumps(samples))
    command = [f"{EVAL}:task=custom", f"--config.model.path={model}", "--config.mesh.data=1"]
    command += [f"--config.data.path={tmp_path}/test.json", "--config.eval.sampled=False"]
    command += ["--config.eval.max_new_tokens=12", "--config.eval.rewards.tags=1"]
    assert main.main([*command, f"--workdir={run}"]) == 0
    file = run / "predictions-test.jsonl"
    rows, asker = lines(file), rrft_jax.load(run)
    for row in rows:
        assert row["prompt"].endswith("<|im_start|>assistant\n<think>\n")
        assert row["completion"] == "<think>\n" + asker.processor.decode(row["tokens"])
        assert row["rewards"]["tags"] == score("tags", [row["completion"]], None)[0] >= 0.25
    asked = [(None, sample["problem"]) for sample in samples]
    assert asker.ask_all(asked, max_new_tokens=12) == [row["completion"] for row in rows]
    assert rescore.main([str(file), "--reward=tags", f"--out={tmp_path}/again.jsonl"]) == 0
    for before, after in zip(rows, lines(tmp_path / "again.jsonl"), strict=True):
        assert after["rewards"]["tags"] == before["rewards"]["tags"]
        assert after["score"] == before["score"]


def test_a_stream_of_batches_gives_the_same_rows_and_goes_on_behind_the_last_whole_one(
    tmp_path, monkeypatch
):
    command = [f"{EVAL}:paradigm=zero_shot", "--config.mesh.data=1", "--config.eval.samples=8"]
    command += ["--config.eval.batch_size=2", "--config.eval.max_new_tokens=12"]
    command += ["--config.eval.temperature=2.0", "--config.eval.sampled=False"]

    def run(name: str) -> bytes:
        assert main.main([*command, f"--workdir={tmp_path / name}"]) == 0
        return (tmp_path / name / "predictions-id.jsonl").read_bytes()

    run("alone")
    monkeypatch.setattr(stream, "batches_together", lambda: 2)
    whole = run("whole")
    rows = [lines(tmp_path / name / "predictions-id.jsonl") for name in ("alone", "whole")]
    for own, other in zip(*rows, strict=True):
        assert own.pop("log_probs") == pytest.approx(other.pop("log_probs"), abs=2e-5)
        assert own == other
    with monkeypatch.context() as patch:  # a signal in the middle of the second stream
        asked = iter([False] * 3)
        patch.setattr(interrupts, "requested", lambda: next(asked, True))
        assert main.main([*command, f"--workdir={tmp_path}/again"]) == 0
    partial = tmp_path / "again" / "predictions-id.jsonl.partial"
    assert partial.read_bytes() == b"".join(whole.splitlines(keepends=True)[:4])
    assert run("again") == whole
