"""Rows of predictions, whoever wrote them, become samples with scores and parts."""

import json
import math

import pytest

from rrft_jax.evaluation import predictions
from tests.evaluation.files import ours, public, tagged

STEPS = "change_color(3, 'red'), change_size(1, 'small')"


def test_our_rows_keep_their_ids_tasks_and_stored_scores(tmp_path):
    rows = [("a", tagged("3"), "3"), ("b", tagged("3"), "4")]
    found = predictions.read(ours(tmp_path / "p.jsonl", rows, score=0.5, task="visual_counting"))
    assert [(p.id, p.task, p.answer, p.problem) for p in found] == [
        ("a", "visual_counting", "3", "How many?"),
        ("b", "visual_counting", "4", "How many?"),
    ]
    assert [p.scores for p in found] == [{"default": 0.5}] * 2
    assert predictions.sample_scores(found) == {"a": 0.5, "b": 0.5}
    again = [p.scored(["default"]) for p in found]
    assert predictions.sample_scores(again) == {"a": 1, "b": 0}
    assert [p.row["score"] for p in again] == [1, 0]


def test_public_rows_are_read_with_their_names_and_without_their_tags(tmp_path):
    rows = [{"pred": tagged("3"), "solution": "<answer> 3 </answer>"}, {"pred": "4", "answer": 5}]
    found = predictions.read(public(tmp_path / "p.json", rows))
    assert [(p.id, p.task, p.answer) for p in found] == [
        ("0", "visual_counting", "3"),
        ("1", "visual_counting", "5"),
    ]
    assert predictions.sample_scores(found) == {"0": 1, "1": 0}


@pytest.mark.parametrize(
    "answers, tasks",
    [
        (["3", "4"], ["visual_counting"] * 2),
        (["3", "B"], ["structure_perception"] * 2),
        ([STEPS, "change_shape(2, 'cube')"], ["spatial_transformation"] * 2),
    ],
)
def test_the_answers_tell_the_task_unless_it_is_given(tmp_path, answers, tasks):
    file = public(tmp_path / "p.json", [{"pred": "", "answer": answer} for answer in answers])
    assert [p.task for p in predictions.read(file)] == tasks
    given = predictions.read(file, "structure_perception")
    assert {p.task for p in given} == {"structure_perception"}
    named = ours(tmp_path / "p.jsonl", [("a", "", "B")], task="visual_counting")
    assert predictions.read(named, "structure_perception")[0].task == "visual_counting"


def test_a_sample_has_the_mean_of_its_passes(tmp_path):
    lines = []
    for name, number, said in [("a", 0, "3"), ("a", 1, "4"), ("b", 0, "3"), ("b", 1, "3")]:
        row = {"id": name, "pass": number, "completion": said, "answer": "3"}
        lines.append(json.dumps(row | {"score": float(said == "3"), "score_reference": 0.0}))
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    found = predictions.read(tmp_path / "p.jsonl")
    assert predictions.sample_scores(found) == {"a": 0.5, "b": 1}
    assert predictions.entry(found) == {
        "accuracy": 0.75,
        "samples": 2,
        "standard_error": pytest.approx(0.25 / math.sqrt(2)),
        "accuracy_reference": 0,
        "standard_error_reference": 0,
        "passes": 2,
    }


def test_rows_that_share_an_id_stay_apart_unless_they_are_passes(tmp_path):
    same = [("a", "3", "3"), ("a", "4", "3"), ("a#1", "3", "3"), ("", "3", "3")]
    found = predictions.read(ours(tmp_path / "p.jsonl", same))
    assert [p.id for p in found] == ["a", "a#1#1", "a#1", "3"]
    # Two places of a mixture may share ids, each with its own passes.
    row = {"id": "a", "completion": "3", "answer": "3"}
    lines = [json.dumps(row | {"pass": number}) for number in (0, 1, 0, 1)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    assert [p.id for p in predictions.read(tmp_path / "q.jsonl")] == ["a", "a", "a#2", "a#2"]


def test_parts_are_told_by_the_answer_and_by_what_a_row_is_grouped_by(tmp_path):
    rows = [("a", tagged("B"), "B"), ("b", tagged("2"), "2"), ("c", tagged("C"), "A")]
    found = predictions.read(ours(tmp_path / "p.jsonl", rows, task="structure_perception"))
    scores = {
        name: list(predictions.sample_scores(part).values())
        for name, part in predictions.by_part(found).items()
    }
    assert scores == {"choice": [1, 0], "non_choice": [1]}
    rows = [
        {"pred": "1", "answer": "1", "level": 0},
        {"pred": "1", "answer": "2", "level": 1, "type": "add"},
        {"pred": "1", "answer": "1", "level": None},
    ]
    found = predictions.read(public(tmp_path / "p.json", rows))
    parts = predictions.by_part(found)
    assert {name: [p.id for p in part] for name, part in parts.items()} == {
        "level 0": ["0"],
        "level 1": ["1"],
        "type add": ["1"],
    }


def test_a_line_separator_inside_of_a_text_ends_no_row(tmp_path):
    row = {"completion": "a\u2028b\x85c", "answer": "3"}
    (tmp_path / "p.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert predictions.read(tmp_path / "p.jsonl")[0].completion == row["completion"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "no rows"),
        ("[]", "no rows"),
        ('{"pred": "3"}', "line 1: no answer; expected a text as 'answer' or 'solution'"),
        ('[{"answer": "3"}]', "row 1: no completion; expected a text as 'completion' or 'pred'"),
        ('{"answer": "3", "pred": null}', "line 1: no completion"),
        ('{"answer": "3", "pred": "3"}\n\n{"answer"', "line 3: not JSON: "),
        ('[\n{"answer": "3", "pred": "3"},\n{"answer"\n]', "line 4: not JSON: "),
        ('[{"answer": "3", "pred": "3"}, 7]', "row 2: expected an object, found int"),
        (
            '{"answer": "3", "pred": "", "task": "chess"}',
            "task 'chess' is unknown; choose one of visual",
        ),
        ("[" * 100_000, "line 1: not JSON"),
        (b"\xff\xfe\xfd", "cannot be read as UTF-8 text"),
        (None, "cannot be read as UTF-8 text: No such file"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path, content, message):
    file = tmp_path / "p.jsonl"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        predictions.read(file)
    text = str(error.value)
    assert text.startswith(f"{file}: ") and message in text and "\n" not in text


def test_samples_without_an_answer_have_rewards_alone(tmp_path):
    rows = [("a", "3", "3"), ("b", "4", "")]
    own = {"task": "custom", "rewards": {"iou": 0.5, "reward": 1.0}}
    found = predictions.entry(predictions.read(ours(tmp_path / "p.jsonl", rows, **own)))
    assert (found["samples"], found["answered"], found["accuracy"]) == (2, 1, 1.0)
    assert found["rewards"]["iou"] == {"mean": 0.5, "standard_error": 0.0}
    failing = own | {"reward_failures": {"iou": "KeyError: 'boxes'"}}
    found = predictions.entry(predictions.read(ours(tmp_path / "p.jsonl", rows[1:], **failing)))
    assert "accuracy" not in found and found["reward_failures"] == {"iou": 1}
    assert list(found["rewards"]) == ["iou", "reward"]
