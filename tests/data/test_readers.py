"""Files of every accepted shape become the same examples; wrong ones end in one clear line."""

import json

import pytest

from rrft_jax.data import find_splits, read_examples
from rrft_jax.errors import UserError

ROW = {"id": 5, "image": "a.png", "problem": "How many?", "answer": "3", "cot": "One, two, three."}
TASK = "visual_counting"


def _write(path, rows=(ROW,)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    else:
        path.write_text(json.dumps(list(rows)))
    return str(path)


def _touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_a_file_serves_training_and_testing(tmp_path, name):
    path = _write(tmp_path / name, [ROW, {**ROW, "id": None}])
    assert find_splits(path, TASK) == {"train": path, "id": path}
    first, second = read_examples(path, TASK, "train")
    assert (first.id, first.problem, first.answer, first.cot) == (
        "5", "How many?", "3", "One, two, three."
    )  # fmt: skip
    assert first.task == TASK
    assert second.id == "data-1"
    assert read_examples(path, TASK, "id") == [first, second]


def test_the_published_layout(tmp_path):
    train = _write(tmp_path / "train_jsons/A3-Visual-Counting-train-35k-cot.json")
    _write(tmp_path / "train_jsons/A1-Spatial-Transformation-train-60k-cot.json")
    test_id = _write(tmp_path / "test_jsons/Visual-Counting-id-test-1k.json")
    ood = _write(tmp_path / "test_jsons/Visual-Counting-ood-test-1k.json")
    left = _write(tmp_path / "test_jsons/Spatial-Transformation-ood-left-test-1k.json")
    assert find_splits(tmp_path, TASK) == {"train": train, "id": test_id, "ood": ood}
    assert find_splits(tmp_path, "spatial_transformation")["ood-left"] == left
    picture = _touch(tmp_path / "images/train_images/a.png")
    (example,) = read_examples(tmp_path, TASK, "train")
    assert example.images == (str(tmp_path / "train_jsons/../images/train_images/a.png"),)
    assert (tmp_path / example.images[0]).samefile(picture)


def test_a_sample_file_serves_the_splits_that_have_no_file(tmp_path):
    sample = _write(tmp_path / "Visual-Counting-ood-sample.json")
    assert find_splits(tmp_path, TASK) == {"train": sample, "id": sample, "ood": sample}
    train = _write(tmp_path / "Visual-Counting-train.jsonl")
    assert find_splits(tmp_path, TASK) == {"train": train, "id": sample, "ood": sample}


def test_a_test_file_never_becomes_training_data(tmp_path):
    _write(tmp_path / "Visual-Counting-id-test-1k.json")
    assert list(find_splits(tmp_path, TASK)) == ["id"]
    with pytest.raises(UserError, match=r"no 'train' split.*id \(Visual-Counting-id-test-1k.json"):
        read_examples(tmp_path, TASK, "train")


def test_pictures_are_found_in_every_usual_place(tmp_path):
    path = tmp_path / "flat" / "data.json"
    _write(path, [{**ROW, "image": name} for name in ("a.png", "b.png", "c/d.png", "lost.png")])
    places = [
        _touch(tmp_path / "flat/a.png"),
        _touch(tmp_path / "flat/images/b.png"),
        _touch(tmp_path / "images/test_images/c/d.png"),
    ]
    examples = read_examples(path, TASK, "train")
    for example, place in zip(examples, places):
        assert (tmp_path / example.images[0]).samefile(place)
    assert examples[3].images[0].endswith("lost.png")  # the loader's business


def test_image_root_comes_first_and_alone(tmp_path):
    path = _write(tmp_path / "data.json")
    _touch(tmp_path / "a.png")
    (tmp_path / "root").mkdir()
    (example,) = read_examples(path, TASK, "train", str(tmp_path / "root"))
    assert example.images == (str(tmp_path / "root" / "a.png"),)
    with pytest.raises(UserError, match="data.image_root"):
        read_examples(path, TASK, "train", str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "fields, names",
    [
        ({"image": "a.png"}, ["a.png"]),
        ({"image": ["a.png", "b.png"]}, ["a.png", "b.png"]),
        ({"images": [{"path": "a.png"}, {"path": "b.png"}]}, ["a.png", "b.png"]),
        ({"image": {"path": "a.png"}}, ["a.png"]),
        ({"image": ""}, []),
        ({"images": None}, []),
        ({}, []),
    ],
)
def test_spellings_of_pictures(tmp_path, fields, names):
    path = _write(tmp_path / "data.json", [{"problem": "How many?", "answer": "1"} | fields])
    (example,) = read_examples(path, TASK, "train")
    assert [image.split("/")[-1] for image in example.images] == names


@pytest.mark.parametrize(
    "fields",
    [{"answer": "3"}, {"solution": "3"}, {"solution": " <answer> 3 </answer>"}, {"answer": 3}],
)
def test_spellings_of_answers(tmp_path, fields):
    path = _write(tmp_path / "data.json", [{"problem": "How many?"} | fields])
    assert read_examples(path, TASK, "train")[0].answer == "3"


@pytest.mark.parametrize(
    "row, message",
    [
        ({**ROW, "answer": None}, "sample 1: no answer"),
        ({"problem": "How many?"}, "sample 1: no answer"),
        ({**ROW, "answer": " "}, "sample 1: the answer is empty"),
        ({**ROW, "answer": ["3"]}, "sample 1: no answer"),
        ({**ROW, "problem": ""}, "sample 1: no question"),
        ({**ROW, "problem": 7}, "sample 1: no question"),
        ({**ROW, "image": 7}, "sample 1: a picture is 7"),
        ({**ROW, "image": ["a.png", None]}, "sample 1: a picture is None"),
        ({**ROW, "cot": 7}, "sample 1: 'cot' is int"),
        ("text", "sample 1: expected an object, found str"),
    ],
)
@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_bad_rows_are_named(tmp_path, row, message, name):
    path = _write(tmp_path / name, [ROW, row])
    with pytest.raises(UserError, match=message) as error:
        read_examples(path, TASK, "train")
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("data.json", b'[{"problem":\n oops}]', "line 2: not JSON"),
        ("data.jsonl", b'{"problem": "a", "answer": "b"}\n\n{"problem"', "line 3: not JSON"),
        ("data.json", b'{"problem": "a"}', "expected a JSON list of objects, found dict"),
        ("data.json", b"[]", "no samples"),
        ("data.jsonl", b"", "no samples"),
        ("data.json", b"\xff\xfe\x00", "UTF-8"),
        ("data.json", b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_examples(tmp_path / name, TASK, "train")
    assert "\n" not in str(error.value)


def test_bad_paths(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find_splits(tmp_path / "nowhere", TASK)
    with pytest.raises(UserError, match="Visual-Counting in its name, found none at all"):
        find_splits(tmp_path, TASK)
    _write(tmp_path / "Spatial-Transformation-train.json")
    with pytest.raises(UserError, match="found Spatial-Transformation-train.json"):
        find_splits(tmp_path, TASK)
    _write(tmp_path / "Visual-Counting-train-a.json")
    _write(tmp_path / "Visual-Counting-train-b.json")
    with pytest.raises(UserError, match="train-a.json and .*train-b.json both hold"):
        find_splits(tmp_path, TASK)
