"""JSON in files: whole contents, and values that are only nearly what was meant."""

import math

import pytest

from rrft_jax import json_files


def test_a_file_that_is_replaced_holds_the_new_content_alone(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for content in (b"a longer line\n", b"short\n"):
        json_files.replace(file, content)
        assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path):
    file = tmp_path / "metrics.jsonl"
    json_files.replace(file, b"old\n")
    with pytest.raises(TypeError):
        json_files.replace(file, "no bytes")
    assert file.read_bytes() == b"old\n"


@pytest.mark.parametrize(
    "text, value",
    [
        (b'{"id": "1"}\n', {"id": "1"}),
        (b'{"id": "1', {}),
        (b"[1, 2]", {}),
        (b"", {}),
        (b"\xff{}", {}),
    ],
)
def test_what_holds_no_object_is_read_as_an_empty_one(text, value):
    assert json_files.read_object(text) == value


@pytest.mark.parametrize("value", [0, -3, 2.5, 10**400])
def test_numbers(value):
    assert json_files.is_number(value)


@pytest.mark.parametrize("value", [True, math.nan, math.inf, "3", None, [1]])
def test_no_numbers(value):
    assert not json_files.is_number(value)


def test_ids_that_repeat_get_their_index_until_none_is_like_another():
    ids = ["a", "a", None, "a#3", "a", "a", None]
    assert json_files.unique_ids(ids) == ["a", "a#1", None, "a#3", "a#4", "a#5", None]
    assert json_files.unique_ids(["a", "a#1", "a"]) == ["a", "a#1", "a#2"]
    assert json_files.unique_ids(["a", "a", "a#1"]) == ["a", "a#1#1", "a#1"]
    assert json_files.unique_ids([]) == []
