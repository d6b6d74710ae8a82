"""An evaluation that was stopped is taken up where it was, and nothing else is."""

import json

import pytest

from rrft_jax.evaluation.partial import Partial


def _rows(names, passes=1):
    return [
        {"id": name} | ({"pass": k} if passes > 1 else {}) for name in names for k in range(passes)
    ]


def _written(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_file_appears_when_all_rows_are_there(tmp_path):
    file = tmp_path / "folder" / "p.jsonl"
    partial = Partial(file, 1)
    assert partial.begun == 0 and partial.take(["a", "b"]) is None
    partial.append(_rows("ab"))
    assert not file.exists()
    partial.append(_rows("c"))
    partial.finish()
    assert _written(file) == _rows("abc")
    assert [f.name for f in file.parent.iterdir()] == ["p.jsonl"]


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("torn", ["", '{"id": "d", "te', "\n", "7\n", '{"id": "d", "te\n'])
def test_whole_batches_are_kept_and_a_torn_line_is_dropped(tmp_path, passes, torn):
    file = tmp_path / "p.jsonl"
    first = Partial(file, passes)
    first.take(["a", "b"])
    first.append(_rows("ab", passes))
    first.append(_rows("c", passes))  # of a batch of two: the other one was not written
    with (tmp_path / "p.jsonl.partial").open("a") as out:
        out.write(torn)
    again = Partial(file, passes)
    assert again.begun in (3, 4)
    assert again.take(["a", "b"]) == _rows("ab", passes)
    assert again.take(["c", "d"]) is None
    again.append(_rows("cd", passes))
    assert again.take(["e"]) is None
    again.append(_rows("e", passes))
    again.finish()
    assert _written(file) == _rows("abcde", passes)


def test_rows_of_other_samples_are_not_continued(tmp_path):
    file = tmp_path / "p.jsonl"
    Partial(file, 1).append(_rows("abcd"))
    other = Partial(file, 1)
    assert other.take(["a", "b"]) == _rows("ab")
    assert other.take(["d", "c"]) is None and other.take(["c", "d"]) is None
    other.append(_rows("xy"))
    other.finish()
    assert _written(file) == _rows("abxy")


def test_a_batch_of_nothing_but_broken_samples_is_in_nobody_s_way(tmp_path):
    file = tmp_path / "p.jsonl"
    first = Partial(file, 1)
    assert first.take([]) is None
    first.append([])
    first.append(_rows("a"))
    again = Partial(file, 1)
    assert again.take([]) == [] and again.take(["a"]) == _rows("a") and again.take([]) is None


def test_rows_beyond_the_last_sample_are_cut_off(tmp_path):
    file = tmp_path / "p.jsonl"
    Partial(file, 1).append(_rows("abc"))
    partial = Partial(file, 1)
    assert partial.take(["a", "b"]) == _rows("ab")
    partial.finish()
    assert _written(file) == _rows("ab")
