"""The names of files and folders tell the files of each split; what does not fit is named."""

import json
import pickle

import pytest

from rrft_jax.data import find_splits, read_examples
from rrft_jax.data import rows as rows_of_files
from rrft_jax.errors import UserError

TASK = "visual_counting"


def _touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")


def _found(root, task=TASK, file=""):
    splits = find_splits(str(root), task, file)
    return {
        split: [found.removeprefix(f"{root}/") for found in files]
        for split, files in splits.items()
    }


@pytest.mark.parametrize(
    "name, split",
    [
        *((word, "train") for word in ("train", "training", "trainset", "my-train_v2", "TRAIN")),
        *((word, "validation") for word in ("validation", "valid", "val", "dev", "my_val", "Dev1")),
        *((word, "id") for word in ("test", "testmini", "eval", "evaluation", "a-test-b", "id")),
        *((word, "ood") for word in ("ood", "test-ood", "ood_test")),
        *((word, "ood-left") for word in ("ood-left", "ood_left_test")),
    ],
)
def test_the_word_in_a_name_tells_the_split(tmp_path, name, split):
    other = "val.json" if split == "train" else "train.json"
    _touch(tmp_path, f"{name}.jsonl", other)
    assert _found(tmp_path)[split] == [f"{name}.jsonl"]
    _touch(tmp_path / "folders", f"{name}/rows.jsonl", f"{other[:-5]}/rows.json")
    if name not in ("my-train_v2", "my_val", "a-test-b", "test-ood"):
        assert _found(tmp_path / "folders")[split] == [f"{name}/rows.jsonl"]


@pytest.mark.parametrize("name", ["value", "latest", "device", "invalid", "constraint", "contest"])
def test_words_inside_of_words_tell_nothing(tmp_path, name):
    _touch(tmp_path, f"{name}.jsonl", "train.jsonl")
    assert _found(tmp_path) == {"train": ["train.jsonl"], "id": [f"{name}.jsonl"]}


@pytest.mark.parametrize(
    "names, splits",
    [
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
            + ["data/test-00000-of-00001.parquet", "README.md"],
            {"train": [0, 1], "id": [2]},
        ),
        (
            ["data/train-00000-of-00001-0123456789abcdef.parquet"]
            + ["data/validation-00000-of-00001-fedcba9876543210.parquet"],
            {"train": [0], "validation": [1]},
        ),
        (["train/0000.parquet", "train/0001.parquet", "val/0000.parquet"],
         {"train": [0, 1], "validation": [2]}),
        (["a-train-2-of-2.jsonl", "a-train-1-of-2.jsonl"], {"train": [1, 0]}),
        (["part-00001-4cf0a7f2-1.c000.snappy.parquet", "part-00000-4cf0a7f2-1.c000.snappy.parquet"],
         {"train": [1, 0], "id": [1, 0]}),
        (["9.parquet", "10.parquet", *(f"{n}.parquet" for n in range(9))],
         {"train": [*range(2, 11), 0, 1], "id": [*range(2, 11), 0, 1]}),
        (["train/cats.jsonl", "train/dogs.jsonl", "dev/cats.jsonl"],
         {"train": [0, 1], "validation": [2]}),
        (["dataset_dict.json", "train/state.json", "train/dataset_info.json"]
         + ["train/data-00000-of-00001.arrow", "test/data-00000-of-00001.arrow"],
         {"train": [3], "id": [4]}),
        (["state.json", "dataset_info.json", "data-00000-of-00002.arrow"]
         + ["data-00001-of-00002.arrow"], {"train": [2, 3], "id": [2, 3]}),
        (["train/metadata.jsonl", "test/metadata.jsonl"], {"train": [0], "id": [1]}),
        (["Visual-Counting-train.json", "Structure-Perception-train.json", "mine-test.json"],
         {"train": [0]}),
    ],
)  # fmt: skip
def test_usual_layouts(tmp_path, names, splits):
    _touch(tmp_path, *names)
    expected = {split: [names[n] for n in numbers] for split, numbers in splits.items()}
    assert _found(tmp_path) == expected


def test_a_split_of_a_saved_data_set_may_have_any_name(tmp_path):
    _touch(tmp_path, "dataset_dict.json", "main/data-00000-of-00001.arrow")
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["main"]}))
    assert _found(tmp_path)["train"] == ["main/data-00000-of-00001.arrow"]


def test_of_a_saved_split_only_its_own_files_are_read(tmp_path):
    """`map` of datasets leaves caches beside the files that it was called on."""
    _touch(tmp_path, "train/data-00000-of-00001.arrow", "train/cache-0123456789abcdef.arrow")
    listed = [{"filename": "data-00000-of-00001.arrow"}]
    (tmp_path / "train/state.json").write_text(json.dumps({"_data_files": listed}))
    assert _found(tmp_path) == {"train": ["train/data-00000-of-00001.arrow"]}
    chosen = {"_data_files": listed, "_indices_files": [{"filename": "indices.arrow"}]}
    (tmp_path / "train/state.json").write_text(json.dumps(chosen))
    with pytest.raises(UserError, match="train: a selection of its rows is saved apart from them"):
        _found(tmp_path)


@pytest.mark.parametrize("said, splits", [("test", ["id"]), ("train", ["train", "id"])])
def test_a_saved_data_set_may_say_that_it_is_held_out(tmp_path, said, splits):
    _touch(tmp_path, "data-00000-of-00001.arrow")
    (tmp_path / "state.json").write_text(json.dumps({"_split": said}))
    assert list(_found(tmp_path)) == splits


def test_a_task_of_the_users_own_reads_files_with_another_tasks_title(tmp_path):
    _touch(tmp_path / "own", "custom-train.json", "test.json")
    assert list(find_splits(str(tmp_path / "own"), "custom")) == ["train", "test"]
    _touch(tmp_path, "visual-counting-train.json")
    assert list(find_splits(str(tmp_path), "custom")) == ["train"]
    with pytest.raises(UserError, match="with Structure-Perception in its name, found visual-"):
        find_splits(str(tmp_path), "structure_perception")


@pytest.mark.parametrize(
    "names, message",
    [
        (["train-00000-of-00003.json", "train-00002-of-00003.json"],
         "train-00001-of-00003.json: no such file; it is one of 3 shards"),
        (["data/train-00001-of-00002.parquet"], "data/train-00000-of-00002.parquet: no such file"),
        (["train-1-of-2.json"], "train-2-of-2.json: no such file"),
        (["train/0000.parquet", "train/0002.parquet"], "train/0001.parquet: no such file"),
        (["train-a.json", "train-b.json"], "both hold the split 'train' of visual_counting; keep "),
        (["train-820.json", "train-300.json"], "both hold the split 'train'"),
        (["train.json", "train.parquet"], "train.json and train.parquet both hold the split"),
        (["train/a.json", "train.json"], "both hold the split 'train'"),
        (["train-0-of-2.json", "train-1-of-2.json", "data/train-0-of-2.json"],
         "train-0-of-2.json and data/train-0-of-2.json both hold the split"),
        ([f"train/0000{n}-of-00002{end}.parquet" for n in (0, 1) for end in ("", "-" + 16 * "a")],
         "00000-of-00002-aaaaaaaaaaaaaaaa.parquet and train/00000-of-00002.parquet both hold"),
        (["a.csv"], "expected a file of .json, .jsonl, .ndjson, .parquet, .arrow"),
        (["main/train.json", "more/train.json"], "found the folder main, the folder more; or give"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_named(tmp_path, names, message):
    _touch(tmp_path, *names)
    with pytest.raises(UserError) as error:
        find_splits(str(tmp_path), TASK)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_training_file_may_be_sharded(tmp_path):
    names = [f"{part}-train-0000{n}-of-00002.json" for part in ("a", "b") for n in range(2)]
    _touch(tmp_path, *names, "Visual-Counting-test.json")
    assert _found(tmp_path, file="b-train") == {
        "train": names[2:], "id": ["Visual-Counting-test.json"]
    }  # fmt: skip


def test_shards_are_one_split_in_their_order(tmp_path):
    rows = [{"problem": f"How many in {n}?", "answer": str(n), "id": "x"} for n in range(5)]
    for n, some in enumerate((rows[:2], rows[2:])):
        text = "\n".join(map(json.dumps, some))
        (tmp_path / f"train-0000{n}-of-00002.jsonl").write_text(text + "\nno JSON\n" * n)
    examples = read_examples(str(tmp_path), TASK, "train")
    assert [example.answer for example in examples[:5]] == ["0", "1", "2", "3", "4"]
    assert [example.id for example in examples[:3]] == ["x", "x#1", "x#2"]
    assert "train-00001-of-00002.jsonl: sample 3: line 4: not JSON" in str(examples[5])


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.ndjson", "rows.txt", "rows"])
@pytest.mark.parametrize("form", ["lines", "list", "pretty", "one"])
def test_json_is_read_under_any_name(tmp_path, name, form):
    rows = [{"problem": "How many?", "answer": str(n)} for n in range(1 if form == "one" else 3)]
    text = {
        "lines": "\n".join(map(json.dumps, rows)),
        "list": json.dumps(rows),
        "pretty": json.dumps(rows, indent=1),
        "one": json.dumps(rows[0]),
    }[form]
    (tmp_path / name).write_text(text)
    examples = read_examples(str(tmp_path / name), TASK, "train")
    assert [example.answer for example in examples] == [row["answer"] for row in rows]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_lines_of_a_large_file_are_the_same_read_one_by_one(tmp_path, monkeypatch, name):
    rows = [{"question": f"Zwei W\u00fcrfel {n}?", "answer": str(n), "id": "x"} for n in range(5)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines[3:3] = ["", '{"question": "Why?"}', "no JSON", " "]
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    whole = read_examples(str(tmp_path / name), TASK, "train")
    monkeypatch.setattr(rows_of_files, "_LARGE_BYTES", 0)
    one_by_one = read_examples(str(tmp_path / name), TASK, "train")
    assert isinstance(whole, list) and not isinstance(one_by_one, list)
    for examples in (one_by_one, pickle.loads(pickle.dumps(one_by_one))):
        assert [*map(str, examples)] == [*map(str, whole)]
    assert [example.id for example in one_by_one[:2]] == ["x", "x#1"]


def test_a_large_list_is_still_a_list(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_of_files, "_LARGE_BYTES", 0)
    rows = [{"question": "How many?", "choices": ["a", "b"], "answer": n} for n in (1, 0)]
    for text in (json.dumps(rows), json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        (tmp_path / "rows.json").write_text(text)
        examples = read_examples(str(tmp_path / "rows.json"), TASK, "train")
        assert [example.answer for example in examples] == ["B", "A"]
