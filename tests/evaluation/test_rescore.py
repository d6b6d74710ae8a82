"""Predictions are scored again from their files alone, ours and the public code's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rrft_jax.evaluation import rescore
from tests.evaluation.files import ours, public, tagged

ROOT = Path(__file__).resolve().parents[2]


def _table(text: str) -> list[list[str]]:
    """The cells of the Markdown tables, without their rules."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines if "---" not in cells[0]]


def test_scores_and_their_errors_are_printed_in_both_modes(tmp_path, capsys):
    rows = [
        ("a", tagged("3"), "3"),
        ("b", tagged("4"), "4"),
        ("c", tagged("1"), "5"),
        ("d", "", "1"),
    ]
    file = ours(tmp_path / "p.jsonl", rows, score=0.0)
    assert rescore.main([str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{file}: visual_counting, 4 samples\n")
    assert _table(said) == [
        ["score, %", "samples", "default", "reference"],
        ["all", "4", "50.00 ± 25.00", "50.00 ± 25.00"],
    ]


def test_a_run_stands_for_all_its_evaluations_in_their_order(tmp_path, capsys):
    names = ("start", "sft@9", "sft@10", "sft")
    for name in names:
        ours(tmp_path / f"evaluations/{name}/predictions-id.jsonl", [("a", tagged("3"), "3")])
    ours(tmp_path / "predictions-id.jsonl", [("a", tagged("4"), "3")])
    (tmp_path / "results.json").write_text(json.dumps({name: {} for name in names}))
    assert rescore.main([str(tmp_path), "--mode=default"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.endswith("1 samples")]
    before = [f"evaluations/{name}/" for name in names]
    assert said == [
        f"{tmp_path}/{folder}predictions-id.jsonl: visual_counting, 1 samples"
        for folder in [*before, ""]
    ]
    assert rescore.main([str(tmp_path), "--out=x"]) == 1
    assert "--out=x: holds the rows of one FILE, not of 5" in capsys.readouterr().err


def test_transformations_earn_part_of_a_score(tmp_path, capsys):
    answer = "change_color(3, 'red'), change_size(1, 'small')"
    said = "<answer>change_color(3, 'blue'), change_size(1, 'small')</answer>"
    file = public(tmp_path / "p.json", [{"pred": said, "solution": f"<answer>{answer}</answer>"}])
    assert rescore.main([str(file), "--mode=default"]) == 0
    said = capsys.readouterr().out
    assert "spatial_transformation, 1 samples" in said
    assert _table(said) == [["score, %", "samples", "default"], ["all", "1", "75.00 ± 0.00"]]


def test_parts_stand_below_the_whole(tmp_path, capsys):
    rows = [("a", tagged("B"), "B"), ("b", tagged("2"), "3")]
    first = ours(tmp_path / "a.jsonl", rows, task="structure_perception")
    second = public(
        tmp_path / "b.json",
        [{"pred": tagged("1"), "answer": str(n), "level": n} for n in (1, 2, 1)],
    )
    assert rescore.main([str(first), str(second), "--mode=default"]) == 0
    names = [cells[:2] for cells in _table(capsys.readouterr().out)]
    assert names == [
        ["score, %", "samples"], ["all", "2"], ["choice", "1"], ["non_choice", "1"],
        ["score, %", "samples"], ["all", "3"], ["level 1", "2"], ["level 2", "1"],
    ]  # fmt: skip


def test_the_rows_are_written_with_their_scores(tmp_path, capsys):
    said = tagged("3") + "\ud800"  # half a surrogate pair, which JSON can spell
    file = public(tmp_path / "p.json", [{"pred": said, "answer": "3", "note": "x"}])
    assert rescore.main([str(file), f"--out={tmp_path / 'out.jsonl'}"]) == 0
    (row,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert row == {
        "pred": said, "answer": "3", "note": "x", "task": "visual_counting",
        "score": 1, "score_reference": 1,
    }  # fmt: skip
    assert rescore.main([str(tmp_path / "out.jsonl"), f"--out={tmp_path / 'out.jsonl'}"]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text()) == row


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: [f"{path}/none.json"], "none.json: no predictions; expected"),
        (lambda path: [str(path)], "no predictions; expected a run's folder"),
        (lambda path: [f"{path}/p.jsonl", f"{path}/p.jsonl", "--out=x"], "--out=x: holds the rows"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, make, message):
    ours(tmp_path / "p.jsonl", [("a", "3", "3")])
    assert rescore.main(make(tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_no_model_and_no_jax_are_needed(tmp_path):
    program = (
        "import sys; from rrft_jax.evaluation import compare, rescore, score; "
        "assert score('visual_counting', '<answer>3</answer>', '3') == 1; "
        "print([name for name in ('jax', 'flax', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_rewards_are_shown_and_computed_from_the_columns_of_the_row(tmp_path, capsys):
    rows = [("a", "3", ""), ("b", "4", "")]  # no answers
    fields = {"task": "custom", "extra": {"boxes": [3]}, "rewards": {"tags": 0.25, "reward": 1}}
    file = ours(tmp_path / "p.jsonl", rows, **fields)
    assert rescore.main([str(file)]) == 0
    assert _table(capsys.readouterr().out) == [
        ["mean reward", "tags", "reward"],
        ["all", "0.250 ± 0.000", "1.000 ± 0.000"],
    ]
    out = tmp_path / "out.jsonl"
    command = [str(file), "--reward=tests.rewards.victims.of_row", f"--out={out}"]
    assert rescore.main(command) == 0
    assert _table(capsys.readouterr().out) == [
        ["mean reward", "tags", "tests.rewards.victims.of_row"],
        ["all", "0.250 ± 0.000", "0.500 ± 0.354"],
    ]
    written = [json.loads(line)["rewards"] for line in out.read_text().splitlines()]
    assert [row["tests.rewards.victims.of_row"] for row in written] == [1, 0]
    assert rescore.main([str(file), "--reward=acuracy"]) == 1
    assert "error: --reward.acuracy: reward 'acuracy'" in capsys.readouterr().err
