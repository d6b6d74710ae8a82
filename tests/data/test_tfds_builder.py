"""ArrayRecord: what goes in comes out, in order; a build is there whole or not at all."""

import concurrent.futures
import dataclasses
import io
import pathlib
import pickle
import random
import signal
import socket
import subprocess
import sys
import weakref

import numpy as np
import pytest
from PIL import Image

from rrft_jax.data import Example, open_image, read_examples, tfds_builder
from rrft_jax.data.drawn import DrawnSource
from rrft_jax.data.drawn import __main__ as drawn_folder
from rrft_jax.data.processor import BadSample
from rrft_jax.data.tfds_builder import build, main, open_source, splits
from rrft_jax.errors import UserError
from rrft_jax.tasks import TASKS

TASK = "visual_counting"


def _example(name, *images, **fields):
    texts = {"problem": f"How many in {name}?", "answer": "2", "cot": None, "task": TASK} | fields
    return Example(id=name, images=images, **texts)


def _picture(path, color=(200, 30, 30)):
    Image.new("RGB", (31, 17), color).save(path)
    return str(path)


def _rows(number):
    """Rows of no picture, one and two; the bytes of a picture may end in zeros."""
    file = io.BytesIO()
    Image.new("RGB", (5, 4)).save(file, "PNG")
    return [_example(f"row-{n}", *[file.getvalue() + bytes(n)] * (n % 3)) for n in range(number)]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("task", [TASK, "spatial_transformation"])
def test_drawn_samples_read_back_as_they_were_drawn(tmp_path, task):
    names = TASKS[task].splits
    sources = {split: DrawnSource(task, split, 3, 5, 8, 56) for split in names}
    assert not any(build(tmp_path / "set", sources).values())
    assert splits(tmp_path / "set") == dict.fromkeys(names, 3)
    for split, source in sources.items():
        read = open_source(tmp_path / "set", split)
        assert len(read) == 3
        for drawn, example in zip(source, read, strict=True):
            for field in ("id", "problem", "answer", "cot", "task"):
                assert getattr(example, field) == getattr(drawn, field)
            assert len(example.images) == len(drawn.images) > 0
            for picture, image in zip(drawn.images, example.images):
                np.testing.assert_array_equal(open_image(image), open_image(picture))


def test_splits_and_rows_of_an_own_task_are_kept(tmp_path):
    rows = [_example("a", answer="", task="custom", extra={"boxes": [1]})]
    build(tmp_path / "set", {"train": rows, "night": rows})
    assert splits(tmp_path / "set") == {"train": 1, "night": 1}
    (read,) = open_source(tmp_path / "set", "night")
    assert (read.answer, read.task, read.extra) == ("", "custom", {"boxes": [1]})


def test_a_row_that_the_reader_could_not_use_is_left_out_and_counted(tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"problem": "How many?", "answer": "1"}\nno JSON\n{"problem": "How many?"}\n')
    rows = read_examples(str(file), TASK, "train")
    assert build(tmp_path / "set", {"train": rows}) == {"train": {"malformed": 2}}
    assert [example.answer for example in open_source(tmp_path / "set", "train")] == ["1"]
    assert "2 of 3 samples of 'train' are left out (malformed: 2)" in capsys.readouterr().err


def test_files_go_in_byte_for_byte(tmp_path):
    png, jpeg = _picture(tmp_path / "a.png"), _picture(tmp_path / "b.jpg", (0, 0, 255))
    examples = [
        _example("none", cot="Ünd – 二"),
        _example("one", png),
        _example("two", jpeg, pathlib.Path(png)),
    ]
    build(tmp_path / "set", {"train": examples})
    none, one, two = open_source(tmp_path / "set", "train")
    assert none == examples[0]
    assert one.images == ((tmp_path / "a.png").read_bytes(),)
    assert two.images == tuple((tmp_path / name).read_bytes() for name in ("b.jpg", "a.png"))


def test_pictures_in_memory_keep_the_pixels_that_the_model_sees(tmp_path):
    rng = np.random.default_rng(0)
    modes = ("RGB", "RGBA", "L", "P", "CMYK")
    noise = Image.fromarray(rng.integers(0, 255, (9, 7, 3), np.uint8))
    pictures = [noise.convert(mode) for mode in modes]
    build(tmp_path / "set", {"train": [_example("modes", *pictures)]})
    (example,) = open_source(tmp_path / "set", "train")
    for picture, image in zip(pictures, example.images, strict=True):
        np.testing.assert_array_equal(open_image(image), picture.convert("RGB"))


def test_the_order_is_that_of_the_source(tmp_path):
    examples = _rows(40)
    random.Random(0).shuffle(examples)
    build(tmp_path / "set", {"train": examples})
    read = open_source(tmp_path / "set", "train")
    assert list(read) == examples
    assert [read[index] for index in (39, 0, 17, -1)] == [examples[i] for i in (39, 0, 17, -1)]
    for cut in (slice(16), slice(16, None), slice(30, 99), slice(None, None, -7), slice(5, 5)):
        assert list(read[cut]) == examples[cut]
    assert read[5:10][1] == examples[6]
    for index in (40, -41):
        with pytest.raises(IndexError):
            read[index]
    with pytest.raises(IndexError):
        read[5:10][5]


def test_threads_share_a_source(tmp_path):
    examples = _rows(50)
    build(tmp_path / "set", {"train": examples})
    read = open_source(tmp_path / "set", "train")
    asked = random.Random(1).choices(range(50), k=600)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(read.__getitem__, asked))
    assert found == [examples[index] for index in asked]


def test_a_source_travels_to_another_process(tmp_path, monkeypatch):
    examples = _rows(9)
    build(tmp_path / "set", {"ood-left": examples})
    monkeypatch.chdir(tmp_path)
    read = open_source("set", "ood-left")[2:7]
    text = pickle.dumps(read)
    assert len(text) < 1000  # where it is, not what it holds
    monkeypatch.chdir("/")
    again = pickle.loads(text)
    assert again == read and again.stored is not read.stored
    assert list(again) == examples[2:7]


def test_rows_are_written_one_at_a_time(tmp_path):
    pictures, alive = [], []

    class Source(list):
        def __getitem__(self, index):
            picture = Image.new("RGB", (8, 8))
            pictures.append(weakref.ref(picture))
            alive.append(sum(seen() is not None for seen in pictures))
            return _example(str(index), picture)

    build(tmp_path / "set", {"train": Source(range(50))})
    assert len(alive) == 50 and max(alive) == 2  # the one before is held until this one is there


def test_unusable_rows_are_left_out_and_counted(tmp_path, capsys):
    good = _picture(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    examples = [
        _example("a", good),
        _example("missing", good, str(tmp_path / "nowhere.png")),
        _example("truncated", str(tmp_path / "cut.png")),
        _example("refused", BadSample("picture", "../x.png: not opened")),
        _example("surrogate", problem="half \ud800"),
        _example("b"),
        _example("bytes", b"no picture"),
    ]
    skipped = build(tmp_path / "set", {"train": examples, "id": examples[:1]})
    assert skipped == {"train": {"picture": 4, "malformed": 1}, "id": {}}
    assert [example.id for example in open_source(tmp_path / "set", "train")] == ["a", "b"]
    assert splits(tmp_path / "set") == {"train": 2, "id": 1}
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert "5 of 7 samples of 'train' are left out (picture: 4, malformed: 1)" in line
    assert "sample missing: " in line and "nowhere.png" in line


def test_a_picture_file_of_a_freak_size_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("rrft_jax.data.tfds_builder._MAX_RECORD_BYTES", 4000)
    png = pathlib.Path(_picture(tmp_path / "a.png")).read_bytes()
    rows = [_example("small", png), _example("large", png + bytes(4000))]
    assert build(tmp_path / "set", {"id": rows}) == {"id": {"picture": 1}}
    assert splits(tmp_path / "set") == {"id": 1}


@pytest.mark.parametrize(
    "sources, message",
    [
        ({}, "nothing to write"),
        ({"train": []}, "'train' is empty"),
        ({"train": [_example("a")], "id": [_example("b", "/nowhere.png")]}, "1 of 1 samples"),
    ],
)
def test_a_build_of_nothing_leaves_nothing(tmp_path, sources, message):
    with pytest.raises(UserError, match=message) as error:
        build(tmp_path / "set", sources)
    assert str(tmp_path / "set") in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_source_that_fails_leaves_nothing(tmp_path):
    class Failing(list):
        def __getitem__(self, index):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "set", {"id": _rows(3), "train": Failing([0])})
    assert not list(tmp_path.iterdir())


def test_a_finished_build_is_not_overwritten(tmp_path):
    build(tmp_path / "set", {"train": _rows(3)})
    with pytest.raises(UserError, match="set: there already"):
        build(tmp_path / "set", {"train": _rows(5)})
    assert splits(tmp_path / "set") == {"train": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


_STUCK = """
import pathlib, sys, time
sys.path.insert(0, {root!r})
from rrft_jax.data import Example, tfds_builder
class Stuck(list):
    def __getitem__(self, index):
        if index == 150:
            print("stuck", flush=True)
            time.sleep(600)
        return Example(str(index), (), "?" * 5000, "1", None, "visual_counting")
tfds_builder.build(pathlib.Path({out!r}), {{"id": [Stuck()[0]], "train": Stuck(range(200))}})
"""


def test_a_killed_build_is_never_read_and_starts_cleanly_again(tmp_path):
    out = tmp_path / "set"
    root = str(pathlib.Path(__file__).parents[2])
    script = _STUCK.format(root=root, out=str(out))
    sources = {
        split: [_example(str(n), problem="?" * 5000, answer="1") for n in range(number)]
        for split, number in (("id", 1), ("train", 200))
    }
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"stuck\n"
            with pytest.raises(UserError, match="another build is writing it"):
                build(out, sources)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL

    unfinished = tmp_path / "set.building"
    assert len(list(unfinished.iterdir())) == 2 and not out.exists()
    with pytest.raises(UserError, match="its build has not finished; wait for it, or run the"):
        open_source(out, "id")
    with pytest.raises(UserError, match="not a data set"):
        open_source(unfinished, "id")

    build(out, sources)
    build(tmp_path / "other", sources)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "set"]
    names = sorted(file.name for file in (tmp_path / "other").iterdir())
    assert names == sorted(file.name for file in out.iterdir())
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert list(open_source(out, "train")) == sources["train"]


def test_folders_of_something_else_are_named(tmp_path, monkeypatch):
    build(tmp_path / "set", {"train": _rows(3), "ood-left": _rows(4)})

    def fails(path, split="train"):
        with pytest.raises(UserError) as error:
            open_source(path, split)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert fails(tmp_path / "set", "id").endswith("no 'id' split; it has train, ood-left")
    assert "nowhere: no such folder; python -m rrft_jax.data" in fails(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty: not a data set that tfds_builder wrote" in fails(tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    assert fails("").startswith(": not a data set")

    info, features = (tmp_path / "set" / f"{name}.json" for name in ("dataset_info", "features"))
    text = features.read_text()
    features.write_text(text.replace('"problem"', '"question"'))
    assert "preface, question, system, task; expected" in fails(tmp_path / "set")
    features.write_text(text)
    assert len(open_source(tmp_path / "set", "train")) == 3

    (file,) = (tmp_path / "set").glob("*-train.*")
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    assert "1,000 bytes of 'train', expected" in fails(tmp_path / "set")
    file.unlink()
    assert "0 bytes of 'train', expected" in fails(tmp_path / "set")
    info.write_text("{")
    assert "TFDS can't read it" in fails(tmp_path / "set")


def test_the_command_turns_a_folder_of_files_into_records(tmp_path, capsys):
    files, out = str(tmp_path / "files"), str(tmp_path / "set")
    drawn = [f"--task={TASK}", "--train=5", "--test=3", "--size=56", "--seed=2"]
    assert drawn_folder.main([*drawn, f"--out={files}"]) == 0
    capsys.readouterr()
    assert main([f"--task={TASK}", f"--path={files}", f"--out={out}", "--train=4"]) == 0
    assert capsys.readouterr().out == f"tfds:{out}: 4 train, 3 id, 3 ood\n"
    for split, number in (("train", 4), ("id", 3), ("ood", 3)):
        for example, expected in zip(
            open_source(out, split), read_examples(files, TASK, split)[:number], strict=True
        ):
            (image,), (file,) = example.images, expected.images
            assert (example.id, example.cot) == (expected.id, expected.cot)
            assert image == pathlib.Path(file).read_bytes()


def test_the_command_draws_where_no_path_is_given(tmp_path, capsys):
    out = str(tmp_path / "set")
    arguments = [f"--task={TASK}", "--train=4", "--test=0", "--size=56", "--seed=2"]
    assert main([*arguments, f"--out={out}"]) == 0
    assert capsys.readouterr().out == f"tfds:{out}: 4 train\n"
    source = DrawnSource(TASK, "train", 2, 0, 4, 56)
    assert [example.id for example in open_source(out, "train")] == [e.id for e in source]


def test_one_file_for_several_splits_is_said(tmp_path, capsys):
    file = tmp_path / "rows.json"
    file.write_text('[{"problem": "How many?", "answer": "2"}]')
    assert main([f"--task={TASK}", f"--path={file}", f"--out={tmp_path / 'both'}"]) == 0
    said = capsys.readouterr()
    assert "one file serves several splits: --train=0 or --test=0" in said.err
    assert said.out.endswith("both: 1 train, 1 id\n")
    arguments = [f"--task={TASK}", f"--path={file}", "--train=0", f"--out={tmp_path / 'one'}"]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "several splits" not in said.err and said.out.endswith("one: 1 id\n")


def test_a_mistake_ends_in_one_line(tmp_path, capsys):
    for arguments, message in (
        ([f"--path={tmp_path}/nowhere"], "no such file or folder"),
        (["--train=-1"], "--train and --test of 0 or more"),
        (["--size=1"], "--size of 28 or more"),
        (["--train=0", "--test=0"], "nothing to write"),
    ):
        assert main([f"--task={TASK}", f"--out={tmp_path}/set", *arguments]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
    assert not list(tmp_path.iterdir())


def test_whatever_a_row_may_hold_reads_back(tmp_path):
    picture = _picture(tmp_path / "a.png")
    fields = {
        "problem": "Is  red, or ?",
        "image_offsets": (3, 12),
        "system": "Answer in French.\nÜ",
        "preface": "<summary>\na\n</summary>\n<caption>\nb\n</caption>",
        "part": "level 2",
        "extra": {"boxes": [[1, 2.5]], "meta": {"ü": None}},
    }
    examples = [_example("all", picture, picture, **fields), _example("front", picture)]
    build(tmp_path / "set", {"train": examples})
    for read, example in zip(open_source(tmp_path / "set", "train"), examples, strict=True):
        images = tuple(pathlib.Path(image).read_bytes() for image in example.images)
        assert read == dataclasses.replace(example, images=images)
        assert read.question == example.question


def test_a_build_of_before_there_were_more_fields_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_builder, "_LATER", ())
    examples = _rows(3)
    build(tmp_path / "set", {"train": examples})
    monkeypatch.undo()
    assert list(open_source(tmp_path / "set", "train")) == examples
