"""Tables give the examples of the same rows in JSON, and read a row when it is asked for."""

import base64
import datetime
import io
import json
import pathlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rrft_jax.data import BadSample, open_image, read_examples, tables
from rrft_jax.data.tfds_builder import build, open_source
from rrft_jax.errors import UserError

TASK = "visual_counting"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/rrft_jax/tables"


def _png(shade=0):
    file = io.BytesIO()
    Image.new("RGB", (60, 60), (shade % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def _rows(number, **fields):
    return [
        {
            "id": f"r{n}",
            "image": {"bytes": _png(n), "path": None},
            "problem": f"How many in {n}?",
            "answer": str(n),
            "boxes": [[n, 1, 2, 3]],
        }
        | fields
        for n in range(number)
    ]


def _write(file, rows, stream=True):
    file.parent.mkdir(parents=True, exist_ok=True)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    if file.suffix == ".parquet":
        pq.write_table(table, file)
    else:
        make = pa.ipc.new_stream if stream else pa.ipc.new_file
        with make(str(file), table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return str(file)


def _as_json(value):
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _as_json(one) for key, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
@pytest.mark.parametrize(
    "rows",
    [
        _rows(8),
        [row | {"image": row["image"]["bytes"]} for row in _rows(2)],
        [row | {"image": [row["image"], row["image"]]} for row in _rows(2)],
        [row | {"image": {"bytes": None, "path": None}} for row in _rows(2)] + _rows(1),
        [row | {"image": None} for row in _rows(2)] + _rows(1),
        _rows(2, options=["0", "1"], level=2, system="Be brief."),
        [{"question": "How many?", "answer": 1}, {"question": None, "answer": 1}],
        [
            {
                "images": [_rows(1)[0]["image"]],
                "prompt": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "text": None}]
                        + [{"type": "text", "text": "How many?"}],
                    }
                ],
                "solution": "<think>One.</think><answer>1</answer>",
            }
        ],
    ],
)
def test_a_table_gives_the_examples_of_its_rows(tmp_path, name, rows):
    (tmp_path / "rows.json").write_text(json.dumps(_as_json(rows)))
    expected = read_examples(str(tmp_path / "rows.json"), TASK, "train")
    found = read_examples(_write(tmp_path / name, rows), TASK, "train")
    assert [*map(str, found)] == [str(one).replace("rows.json", name) for one in expected]
    for example in found:
        for picture in () if isinstance(example, BadSample) else example.images:
            assert open_image(picture).size == (60, 60)


@pytest.mark.parametrize("layout", ["hub", "saved", "shards", "file"])
def test_layouts_of_tables(tmp_path, layout):
    rows, root = _rows(7), tmp_path / "set"
    if layout == "hub":
        _write(root / "data/train-00000-of-00002.parquet", rows[:3])
        _write(root / "data/train-00001-of-00002.parquet", rows[3:])
        _write(root / "data/test-00000-of-00001.parquet", rows[:2])
    elif layout == "saved":
        _write(root / "train/data-00000-of-00001.arrow", rows)
        _write(root / "test/data-00000-of-00001.arrow", rows[:2])
        (root / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        (root / "train/state.json").write_text("{}")
    elif layout == "shards":
        _write(root / "train/data-00000-of-00002.arrow", rows[:3])
        _write(root / "train/data-00001-of-00002.arrow", rows[3:])
        _write(root / "test/0.parquet", rows[:2])
    else:
        _write(root / "train.arrow", rows, stream=False)
        _write(root / "test.parquet", rows[:2])
    train, test = (read_examples(str(root), TASK, split) for split in ("train", "id"))
    assert [example.answer for example in train] == [*"0123456"]
    assert [example.id for example in test] == ["r0", "r1"]
    assert train[5].extra == {"boxes": [[5, 1, 2, 3]]} and train[5].images == (_png(5),)


def test_examples_are_a_sequence_that_travels(tmp_path):
    examples = read_examples(_write(tmp_path / "rows.parquet", _rows(20)), TASK, "train")
    answers = [str(n) for n in range(20)]
    assert len(examples) == 20 and [e.answer for e in examples] == answers
    assert examples[-1] == examples[19] and examples[3:9][2] == examples[5]
    assert [e.answer for e in examples[15:99]] == answers[15:]
    with pytest.raises(IndexError):
        examples[20]
    with pytest.raises(IndexError):
        examples[3:9][6]
    there = pickle.loads(pickle.dumps(examples[3:9]))
    assert [*there] == [*examples[3:9]]
    with ThreadPoolExecutor(8) as threads:
        assert [
            e.answer for e in threads.map(examples.__getitem__, [*range(20)] * 9)
        ] == answers * 9


def test_pages_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_MAPPED_BYTES", 1000)
    examples = read_examples(_write(tmp_path / "rows.arrow", _rows(20)), TASK, "train")
    assert [e.images for e in examples] == [(_png(n),) for n in range(20)]


def test_a_parquet_file_is_unpacked_once(tmp_path, cache):
    file = _write(tmp_path / "rows.parquet", _rows(3))
    first = [*read_examples(file, TASK, "train")]
    (out,) = cache.iterdir()
    before = out.stat()
    assert [*read_examples(file, TASK, "train")] == first
    assert out.stat() == before
    _write(tmp_path / "rows.parquet", _rows(4))  # another file of the same name
    assert len(read_examples(file, TASK, "train")) == 4


def test_what_a_killed_process_was_unpacking_is_deleted(tmp_path, cache):
    cache.mkdir(parents=True)
    (cache / "killed.part").write_bytes(b"ARROW")
    with tables._whole(cache / "other.arrow") as part:  # of another process, which still writes
        pathlib.Path(part).write_bytes(b"x")
        read_examples(_write(tmp_path / "rows.parquet", _rows(3)), TASK, "train")
        assert [file for file in cache.glob("*.part")] == [pathlib.Path(part)]
    assert sorted(file.name.partition("-")[0] for file in cache.iterdir()) == [
        "other.arrow",
        "rows",
    ]


def test_repeated_and_missing_ids(tmp_path, capsys):
    rows = _rows(5)
    for row, name in zip(rows, ["a", None, "a", "b", "rows-1"]):
        row["id"] = name
    file = _write(tmp_path / "rows.parquet", rows)
    ids = ["a", "rows-1", "a#2", "b", "rows-1#4"]
    assert [example.id for example in read_examples(file, TASK, "train")] == ids
    assert "2 samples share an earlier one's id" in capsys.readouterr().err
    for row in rows:
        row["meta"] = {"name": row.pop("id")}
    file = _write(tmp_path / "nested.parquet", rows)
    mapped = read_examples(file, TASK, "train", columns={"id": "meta.name"})
    assert [example.id for example in mapped] == ["a", "nested-1", "a#2", "b", "rows-1"]


def test_the_first_option_is_counted_over_the_whole_table(tmp_path):
    rows = [{"question": "Which?", "choices": ["a", "b"], "answer": n} for n in (1, 1, 0)]
    file = _write(tmp_path / "rows.parquet", rows)
    assert [example.answer for example in read_examples(file, TASK, "train")] == ["B", "B", "A"]


def test_class_numbers_have_their_names(tmp_path):
    features = {
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "image": {"_type": "Image"},
    }
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    rows = [{"question": "What?", "label": n} for n in (1, 0, -1)]
    table = pa.Table.from_pylist(rows).replace_schema_metadata(about)
    for name in ("rows.parquet", "rows.arrow"):
        file = _write(tmp_path / name, table)
        examples = read_examples(file, "custom", "train", columns={"answer": "label"})
        assert [example.answer for example in examples] == ["dog", "cat", ""]


def test_values_that_json_lacks_become_texts(tmp_path):
    when = datetime.datetime(2026, 1, 2, 3, 4)
    row = _rows(1, when=when, meta={"hash": b"abc", "n": 1})[0]
    file = _write(tmp_path / "rows.parquet", [row])
    (example,) = read_examples(file, TASK, "train")
    assert example.extra["when"] == str(when) and example.extra["meta"] == {
        "hash": "3 bytes",
        "n": 1,
    }
    build(tmp_path / "built", {"train": read_examples(file, TASK, "train")})
    assert [*open_source(str(tmp_path / "built"), "train")] == [example]


def test_times_finer_than_those_of_python_are_cut(tmp_path):
    for kind, text in (
        (pa.timestamp("ns"), "1970-01-01 00:00:00.000001"),
        (pa.timestamp("ns", "UTC"), "1970-01-01 00:00:00.000001+00:00"),
        (pa.duration("ns"), "0:00:00.000001"),
        (pa.time64("ns"), "00:00:00.000001"),
    ):
        table = pa.table({"problem": ["q?"], "answer": ["1"], "when": pa.array([1234], kind)})
        (example,) = read_examples(_write(tmp_path / f"{kind}.parquet", table), TASK, "train")
        assert example.extra == {"when": text}


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_a_pointer_in_the_place_of_a_file_is_named(tmp_path, name):
    """A clone of a data set without git-lfs has them."""
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1234\n"
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="a pointer of git-lfs .* of 1,234 bytes; run git lfs pull"):
        read_examples(str(tmp_path / name), TASK, "train")


def test_pictures_beside_the_chosen_column_are_no_extra(tmp_path):
    rows = _rows(2, mask={"bytes": _png(), "path": None}, picture="a.png")
    for row in rows:
        row["shown"] = row.pop("image")
    file = _write(tmp_path / "rows.parquet", rows)
    with pytest.raises(UserError, match="'mask' is .* picture under this key.*columns.image=COL"):
        read_examples(file, TASK, "train")
    (first, _) = read_examples(file, TASK, "train", columns={"image": "shown"})
    assert first.images == (_png(),) and first.extra == {
        "boxes": [[0, 1, 2, 3]],
        "picture": "a.png",
    }


def test_a_column_that_the_table_lacks_is_named(tmp_path):
    file = _write(tmp_path / "rows.parquet", _rows(2))
    with pytest.raises(UserError) as error:
        read_examples(file, TASK, "train", columns={"problem": "ask"})
    assert "expected one of id, image, problem, answer, boxes" in str(error.value)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow"])
@pytest.mark.parametrize("cut", [0, 1, 10, 300, -1, -40])
def test_a_broken_table_is_named(tmp_path, cache, name, cut):
    file = tmp_path / name
    content = open(_write(file, _rows(30)), "rb").read()
    file.write_bytes(content[:cut])
    try:
        rows = [*read_examples(str(file), TASK, "train")]
    except UserError as error:
        assert str(error).startswith(str(file)) and "\n" not in str(error)
        assert not any(cache.glob("*")) if cache.exists() else True
    else:  # Arrow's last bytes mark the end, and hold no row
        assert name == "rows.arrow" and cut == -1 and len(rows) == 30


@pytest.mark.parametrize("column", ["question", "id"])
def test_offsets_that_point_out_of_a_table_are_not_followed(tmp_path, column):
    file = tmp_path / "rows.arrow"
    rows = [{"question": "How many?", "answer": "1", "id": f"r{n}"} for n in range(3)]
    content = open(_write(file, rows), "rb").read()
    size = len(rows[0][column])
    ends = b"".join((size * n).to_bytes(4, "little") for n in range(4))
    assert content.count(ends) == 1
    file.write_bytes(content.replace(ends, ends[:8] + b"\xff\xff\xff\x7f" + ends[12:]))
    if column == "id":  # all ids are compared at the start
        with pytest.raises(UserError, match="can't be read as a table"):
            read_examples(str(file), TASK, "train")
    else:
        first, second, third = read_examples(str(file), TASK, "train")
        assert first.answer == "1" and "its bytes are broken" in str(second) + str(third)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    file = _write(tmp_path / "rows.parquet", _rows(2))
    with pytest.raises(UserError, match="XDG_CACHE_HOME names another folder for unpacked tables"):
        read_examples(file, TASK, "train")
