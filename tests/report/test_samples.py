"""An evaluation as a page shows it: texts up to a limit, scores and answers of all samples."""

import os

from rrft_jax.report import samples
from tests.evaluation.files import ours, tagged


def evaluation(tmp_path, rows, **fields):
    return samples.read(ours(tmp_path / "predictions-id.jsonl", rows, **fields))


def test_scores_are_of_all_samples_and_texts_of_the_first_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SHOWN", 2)
    found = evaluation(tmp_path, [(str(n), tagged(str(n % 2)), "1") for n in range(5)])
    assert list(found.worth.values()) == [0, 1, 0, 1, 0]
    assert list(found.said) == [("0", "1"), ("1", "1")]


def test_long_texts_leave_room_for_fewer_samples(tmp_path):
    found = evaluation(tmp_path, [(str(n), "x" * 100_000, "1") for n in range(40)])
    assert len(found.worth) == 40 and 20 <= len(found.said) <= 22


def test_answers_are_counted_by_the_right_ones(tmp_path):
    said = ["3", "3", "4", "10", None, "2"]
    rows = [(str(n), tagged(s) if s else "?", "3") for n, s in enumerate(said)]
    found = evaluation(tmp_path, [*rows, ("7", tagged("10"), "10")]).answers
    assert found["right"] == ["3", "10"]
    assert found["given"] == ["2", "3", "4", "10", samples.NONE]
    assert found["counts"] == [[1, 2, 1, 1, 1], [0, 0, 0, 1, 0]]
    assert sorted(found["mistakes"]) == [["3", given, 1] for given in ("10", "2", "4", "no answer")]


def test_without_any_tags_the_whole_text_is_the_answer(tmp_path):
    found = evaluation(tmp_path, [("a", "3", "3"), ("b", "4", "3")]).answers
    assert found["given"] == ["3", "4"] and found["counts"] == [[1, 1]]


def test_rare_answers_are_one_column(tmp_path):
    found = evaluation(tmp_path, [(str(n), tagged(str(n)), "1") for n in range(20)]).answers
    assert found["given"][-1] == samples.OTHER and len(found["given"]) == 13
    assert sum(found["counts"][0]) == 20


def test_a_changed_file_is_read_again(tmp_path):
    first = evaluation(tmp_path, [("a", tagged("3"), "3")])
    assert samples.read(tmp_path / "predictions-id.jsonl") is first
    second = evaluation(tmp_path, [("a", tagged("4"), "3")])
    os.utime(tmp_path / "predictions-id.jsonl", ns=(0, 0))
    assert samples.read(tmp_path / "predictions-id.jsonl").worth != first.worth
    assert list(second.worth) == list(first.worth)
