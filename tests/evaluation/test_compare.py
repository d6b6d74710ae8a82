"""Runs side by side: the same samples, paired differences, and which samples differ."""

import json

import pytest

from rrft_jax.evaluation import compare
from tests.evaluation.files import ours, public, tagged
from tests.evaluation.test_rescore import _table


def _run(folder, right, split="id", wrong=()):
    """A run's folder whose samples `right` are solved and `wrong` are not."""
    rows = [(name, tagged("3"), "3") for name in right] + [(n, tagged("4"), "3") for n in wrong]
    ours(folder / f"predictions-{split}.jsonl", sorted(rows))
    return folder


def test_differences_are_paired_by_sample_and_have_an_interval(tmp_path, capsys):
    first = _run(tmp_path / "a", "ab", wrong="cdefgh")
    _run(tmp_path / "a", "ab", "ood")
    second = _run(tmp_path / "b", "bcde", wrong="ahgfx")
    assert compare.main([str(first), str(second)]) == 0
    said = capsys.readouterr().out
    head, base, other = _table(said)
    assert head[:4] == ["split", "run", "samples", "accuracy, %"]
    assert base == ["id", str(first), "8", "25.0 ± 15.3", "", "", ""]
    # Of eight samples three are won and one is lost: +25 points, standard deviation 66.1.
    assert other == ["id", str(second), "8", "50.0 ± 17.7", "+25.0 [-20.8, +70.8]", "1", "3"]
    assert f"1 samples of {second} are not in all of the runs" in said
    assert "ood" not in said


def test_every_run_is_set_beside_the_first(tmp_path, capsys):
    runs = [_run(tmp_path / name, right, wrong=wrong) for name, right, wrong in
            [("a", "a", "bc"), ("b", "ab", "c"), ("c", "abc", "")]]  # fmt: skip
    for run in runs[:2]:
        _run(run, "a", "ood")
    assert compare.main(list(map(str, runs))) == 0
    cells = _table(capsys.readouterr().out)[1:]
    assert [(row[0], row[1][-1], row[5:]) for row in cells] == [
        ("id", "a", ["", ""]),
        ("id", "b", ["0", "1"]),
        ("id", "c", ["0", "2"]),
        ("ood", "a", ["", ""]),
        ("ood", "b", ["0", "0"]),
    ]


def test_files_are_compared_whatever_they_are_called(tmp_path, capsys):
    first = ours(tmp_path / "predictions-id.jsonl", [("0", "3", "3"), ("1", "2", "2")])
    second = public(
        tmp_path / "theirs.json",
        [{"pred": "3", "solution": "3"}, {"pred": "3", "solution": "2"}],
    )
    assert compare.main([str(first), str(second)]) == 0
    assert _table(capsys.readouterr().out)[2][4:] == ["-50.0 [-119.3, +19.3]", "1", "0"]


def test_a_sample_counts_as_solved_by_half_of_its_passes(tmp_path, capsys):
    for name, said in (("a", "3345"), ("b", "3445")):
        lines = [
            {"id": "x", "pass": i, "problem": "How\nmany?", "answer": "3", "completion": text}
            for i, text in enumerate(said)
        ]
        file = tmp_path / name / "predictions-id.jsonl"
        file.parent.mkdir()
        file.write_text("\n".join(map(json.dumps, lines)))
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--show=2"]) == 0
    said = capsys.readouterr().out
    assert _table(said)[2][4:] == ["-25.0 [-25.0, -25.0]", "1", "0"]
    assert f"id: 1 samples that only {tmp_path / 'a'} solves\n\n- x: How many? (3)\n" in said
    assert "a, pass 0" in said and "b, pass 1" in said  # the first right one, and a wrong one
    assert said.rstrip().endswith(f"id: 0 samples that only {tmp_path / 'b'} solves")


def test_what_the_runs_said_stands_side_by_side(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "62")
    ours(tmp_path / "a/predictions-id.jsonl", [("0", "I see " + 9 * "a cube, " + "3.", "3")])
    ours(tmp_path / "b/predictions-id.jsonl", [("0", "one\n\x1b[2Jtwo", "3")])
    assert compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--show=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("- 0: "))
    left, right = zip(*(line.split(" | ") for line in lines[at + 1 : at + 5] if " | " in line))
    assert left[0].strip().endswith("a") and right[0].endswith("b")
    assert max(map(len, lines[at + 1 : at + 5])) <= 62 and len(set(map(len, left))) == 1
    assert left[1].strip().startswith("I see a cube,")
    assert [text.strip() for text in right[1:]] == ["one", r"\x1b[2Jtwo"]


def test_runs_that_were_asked_in_other_words_are_marked(tmp_path, capsys):
    words = {"a": "Answer.", "b": "Think, then answer.", "c": "Answer.", "d": None}
    for name, asked in words.items():
        prompt = {} if asked is None else {"prompt": f"<user>How many?\n{asked}<end>"}
        ours(tmp_path / name / "predictions-id.jsonl", [("0", "3", "3")], **prompt)
    assert compare.main([str(tmp_path / name) for name in words]) == 0
    said = capsys.readouterr().out
    runs = [row[1] for row in _table(said)[1:]]
    assert [name[len(str(tmp_path)) + 1 :] for name in runs] == ["a", "b *", "c", "d"]
    assert f"id: * {tmp_path / 'b'} was asked in other words" in said
    assert "reads 'A', " in said and "reads 'Think, then a'." in said
    assert f"id: prompts are not recorded by {tmp_path / 'd'}, so they are not compared." in said


def test_only_so_many_samples_are_shown(tmp_path, capsys):
    first, second = _run(tmp_path / "a", "abc"), _run(tmp_path / "b", "", wrong="abc")
    assert compare.main([str(first), str(second), "--show=2"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert shown == ["- a: How many? (3)", "- b: How many? (3)"]


@pytest.mark.parametrize(
    "runs, message",
    [
        (["a"], "one run; expected two or more"),
        (["a", "a"], "given twice"),
        (["a", "none"], "none: no predictions; expected a run's folder with predictions-SPLIT"),
        (["a", "begun"], "or a file, or one of begun/evaluations/sft, begun/evaluations/start\n"),
        (["a", "ood"], "no split that"),
        (["a", "other"], "sample a: the answer is '3' in"),
        (["a", "strangers"], "id: no sample's id is in all of"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, monkeypatch, capsys, runs, message):
    monkeypatch.chdir(tmp_path)
    _run(tmp_path / "a", "ab")
    _run(tmp_path / "ood", "ab", "ood")
    _run(tmp_path / "strangers", "xy")
    for stage in ("start", "sft"):
        _run(tmp_path / "begun/evaluations" / stage, "ab")
    ours(tmp_path / "other" / "predictions-id.jsonl", [("a", "3", "7")])
    assert compare.main(runs) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_rewards_are_compared_too_and_alone_without_answers(tmp_path, capsys):
    for folder, values in (("a", (0.0, 0.5)), ("b", (0.5, 0.5))):
        lines = [
            {"id": name, "task": "custom", "answer": "", "completion": f"{value}"}
            | {"rewards": {"iou": value, "reward": value}}
            for name, value in zip("xy", values)
        ]
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "predictions-val.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [str(tmp_path / name) for name in "ab"]
    assert compare.main([*runs, "--show=2"]) == 0
    said = capsys.readouterr().out
    assert _table(said) == [
        ["split", "run", "reward", "samples", "mean", "difference [95 %]"],
        ["val", runs[0], "iou", "2", "0.250 ± 0.177", ""],
        ["val", runs[1], "iou", "2", "0.500 ± 0.000", "+0.250 [-0.096, +0.596]"],
    ]
    assert f"1 samples that only {runs[1]} solves" in said and "- x:" in said
