"""What strangers' data sets hold ends as a sample, as a skipped and counted row, or in one line.

Pictures of every kind of file are the matter of test_pictures.py, fences around their folders and
fields of rows that of test_readers.py. Here are files that only look like what they should be, and
whole data sets of them, from the file to the batch.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rrft_jax import rewards
from rrft_jax.data import (
    BadSample,
    Example,
    Processor,
    Source,
    find_splits,
    open_image,
    read_examples,
)
from rrft_jax.errors import UserError
from tests.loading import loader_of, refusal

TASK = "visual_counting"
ROW = {"problem": "How many?", "answer": "3", "cot": "One, two, three."}


@pytest.fixture(scope="module")
def processor(checkpoint):
    return Processor.from_pretrained(checkpoint("small"))


@contextlib.contextmanager
def _seconds(limit):
    """Ends what waits for ever, such as for the other end of a pipe."""

    def stop(*_):
        raise TimeoutError(f"not done in {limit} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _picture(path, size=(60, 60)):
    Image.new("RGB", size, "red").save(path)
    return str(path)


def _write(path, rows):
    lines = path.suffix == ".jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    return path


def _loader(examples, processor, **options):
    return loader_of([Source(examples)], processor, **{"batch_size": 2} | options)


def _ids(loader):
    return sorted(example.id for batch in loader for example in batch.examples)


def _one_line(message):
    return message.isprintable() and len(message) < 1000


# Pictures.


def _refusals(processor, picture):
    """Why it's refused, whether its pixels are wanted or its size alone."""
    for use in (processor.encode, processor.measure):
        with _seconds(10):
            reason = refusal(use, picture)
        assert _one_line(reason)
        yield reason


@pytest.mark.parametrize("target", ["a.png", "nowhere.png", "/dev/zero", "pipe", "."])
def test_links_to_what_is_no_file_are_never_opened(processor, tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.png").symlink_to(target)
    for reason in _refusals(processor, tmp_path / "a.png"):
        assert "a.png: no such picture file" in reason


@pytest.mark.parametrize(
    "name",
    [".", "a\0.png", "a.png\0/../../b.png", "\ud800.png", "n" * 300 + ".png", "d/" * 3000],
)
def test_names_that_no_file_can_have(processor, tmp_path, name):
    _picture(tmp_path / "a.png")
    _write(tmp_path / "data.json", [ROW | {"image": name}])
    (example,) = read_examples(tmp_path / "data.json", TASK, "train")
    for reason in _refusals(processor, example.images[0]):
        assert "no such picture file" in reason


@pytest.mark.parametrize(
    "name, message",
    [
        ("http://example.org/a.png", "http://example.org/a.png: an address on the network"),
        ("S3://bucket/a.png", "S3://bucket/a.png: an address on the network"),
        ("file:///etc/passwd", "/etc/passwd: cannot identify image"),
        ("file:///lost.png", "/lost.png: no such picture file"),
        ("data:image/png;base64," + "iVBORw0KGgo" * 100_000, "a picture in memory: cannot ident"),
        ("data:image/svg+xml,<svg/>", "<svg/>...: a data: address without base64"),
        ("iVBORw0KGgo" * 100_000, "a picture in memory: cannot identify image; expected one of"),
        ("/9j/4AAQSkZJRgABAQEAYABgAAD/2wBDAAgGBgcGBQgHBwc", "a picture in memory: "),
        ("a\nerror: all is lost.png", "no such picture file"),
        ("\x1b[2J\x1b]0;title\x07.png", "no such picture file"),
        ("\u202egnp.a", "no such picture file"),
    ],
)
def test_messages_are_a_line_whatever_the_name(processor, tmp_path, name, message):
    _write(tmp_path / "data.json", [ROW | {"image": name, "id": name}])
    examples = read_examples(tmp_path / "data.json", TASK, "train")
    for reason in _refusals(processor, examples[0].images[0]):
        assert message in reason
    with pytest.raises(UserError, match=message) as error:
        list(_loader(examples, processor))
    assert _one_line(str(error.value))


def _chunk(name, content):
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def _png(header, pixels, *chunks):
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            *chunks,
            _chunk(b"IDAT", zlib.compress(pixels)),
            _chunk(b"IEND", b""),
        ]
    )


def test_colours_of_16_bits_are_scaled_to_8(processor, tmp_path):
    values = np.random.default_rng(0).integers(0, 2**16, (60, 60, 3), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    (tmp_path / "a.png").write_bytes(_png(struct.pack(">IIBBBBB", 60, 60, 16, 2, 0, 0, 0), rows))
    seen = np.asarray(open_image(tmp_path / "a.png").convert("RGB"))
    np.testing.assert_array_equal(seen, values >> 8)


def _gif_bomb(path):
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\0"
    header = struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
    path.write_bytes(b"GIF89a" + header + b"\0" * 6 + frame + b";")


def _bmp_bomb(path):
    header = struct.pack("<IiiHHIIiiII", 40, 60_000, -60_000, 1, 24, 0, 0, 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header)


def _jpeg_bomb(path):
    _picture(path)
    content = bytearray(path.read_bytes())
    sizes = content.index(b"\xff\xc0") + 5
    content[sizes : sizes + 4] = struct.pack(">HH", 65_000, 65_000)
    path.write_bytes(content)


def _ppm_bomb(path):
    path.write_bytes(b"P6 100000 100000 255\n")


@pytest.mark.parametrize("make", [_gif_bomb, _bmp_bomb, _jpeg_bomb, _ppm_bomb])
def test_bombs_are_refused_by_their_headers(processor, tmp_path, make):
    make(tmp_path / "a.jpg")
    for reason in _refusals(processor, tmp_path / "a.jpg"):
        assert re.search("more than 64000000|decompression bomb", reason)


def test_bombs_beside_the_pixels_are_refused(tmp_path):
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b" " * 2**24))
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(_png(header, b"\0" * 4, text))
    with pytest.raises(BadSample, match="Decompressed data too large"):
        open_image(tmp_path / "a.png")


# Files of samples.


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n") + b"\r\n",
        lambda text: b"\r\n \t\r\n" + text + b"\n\n\n",
        lambda text: text.replace(b"\n", b"\r"),
    ],
    ids=["byte order mark", "CRLF", "empty lines", "CR"],
)
def test_files_of_other_systems_read_alike(tmp_path, name, change):
    rows = [ROW | {"id": "a", "problem": "Zwei\u2028Würfel\r\n?"}, ROW | {"id": "b"}]
    if name == "data.json":
        text = json.dumps(rows, indent=1, ensure_ascii=False)
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / name).write_bytes(text.encode())
    plain = read_examples(tmp_path / name, TASK, "train")
    assert [example.problem for example in plain] == [row["problem"] for row in rows]
    (tmp_path / name).write_bytes(change(text.encode()))
    assert read_examples(tmp_path / name, TASK, "train") == plain


GOOD = json.dumps(ROW)


@pytest.mark.parametrize(
    "line",
    [
        GOOD + ",",
        GOOD.replace("}", ",}"),
        GOOD[:-1],
        GOOD + GOOD,
        "{" + "'problem': 'How many?', 'answer': '3'}",
        GOOD.replace('"3"', "1e999"),
        "null",
        "[]",
        "<html>",
    ],
    ids=lambda line: line[:12] + "..." + line[-12:],
)
def test_a_line_that_is_no_sample_costs_itself_alone(processor, tmp_path, line):
    (tmp_path / "data.jsonl").write_text("\n".join([GOOD, GOOD, line, GOOD]))
    examples = read_examples(tmp_path / "data.jsonl", TASK, "train")
    assert [isinstance(example, BadSample) for example in examples] == [False, False, True, False]
    assert examples[2].cause == "malformed" and _one_line(str(examples[2]))
    assert "data.jsonl: sample 2: " in str(examples[2])
    loader = _loader(examples, processor)
    assert _ids(loader) == ["data-0", "data-1", "data-3"]
    assert loader.skipped == {"malformed": 1}


@pytest.mark.parametrize(
    "text, place",
    [
        (f"[\n{GOOD},\n]", "line [23]"),
        (f"[\n{GOOD[:-1]},}}]", "line 2"),
        (f"[\n{GOOD}\n{GOOD}]", "line 3"),
        (f"[{GOOD}", "line 1"),
        (f"// samples\n[{GOOD}]", "line 1"),
    ],
)
def test_a_file_that_does_not_parse_is_named_with_the_line(tmp_path, text, place):
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(UserError, match=f"data.json: {place}: not JSON") as error:
        read_examples(tmp_path / "data.json", TASK, "train")
    assert _one_line(str(error.value))


@pytest.mark.parametrize("field", ["problem", "answer", "cot", "id"])
def test_a_text_that_is_not_unicode_is_malformed(tmp_path, field):
    # Results could not be written: that must not show when the first of them are.
    path = _write(tmp_path / "data.json", [ROW, ROW | {field: "a\ud800b"}])
    _, example = read_examples(path, TASK, "train")
    assert isinstance(example, BadSample) and example.cause == "malformed"
    assert "sample 1: " in str(example) and "not Unicode" in str(example)


def test_huge_numbers_are_texts(tmp_path):
    huge = 10**4000
    path = _write(
        tmp_path / "data.json", [ROW | {"id": huge, "answer": -huge}, ROW | {"answer": 0}]
    )
    first, second = read_examples(path, TASK, "train")
    assert first.id == str(huge) and first.answer == str(-huge) and second.answer == "0"


@pytest.mark.parametrize(
    "image, names",
    [
        ({"path": "a.png", "bytes": None}, ["a.png"]),
        ([{"bytes": None, "path": "a.png"}, "b.png"], ["a.png", "b.png"]),
        ({"path": None, "bytes": None}, []),
        ({"path": 7}, None),
        ([None], None),
        ([["a.png"]], None),
        ([""], None),
        (10**30, None),
    ],
)
def test_pictures_of_a_row(tmp_path, image, names):
    path = _write(tmp_path / "data.json", [ROW, ROW | {"image": image}])
    _, example = read_examples(path, TASK, "train")
    if names is None:
        assert isinstance(example, BadSample) and example.cause == "malformed"
        assert "sample 1: a picture is " in str(example) and _one_line(str(example))
    else:
        assert [os.path.basename(path) for path in example.images] == names


@pytest.mark.parametrize(
    "task, answer",
    [
        (TASK, "many"),
        (TASK, "3 or 4"),
        ("structure_perception", "E"),
        ("structure_perception", "B"),
    ],
)
def test_answers_of_no_expected_kind_are_learnt_and_compared_as_texts(
    processor, tmp_path, task, answer
):
    path = _write(tmp_path / "data.json", [ROW | {"answer": answer}])
    examples = read_examples(path, task, "train")
    (batch,) = _loader(examples, processor, max_prompt_length=1024)
    learned = processor.decode(batch.completions[0, 0][batch.completion_mask[0, 0]])
    assert rewards.score("accuracy", [learned], examples[0]) == [1]
    wrong = learned.replace(answer, "0")
    assert rewards.score("accuracy", [wrong], examples[0]) == [0]


def test_an_answer_without_a_call_is_no_transformation(tmp_path):
    answers = ["nothing", "change_size(1)", "change_size(1, 'small')", "3"]
    path = _write(tmp_path / "data.json", [ROW | {"answer": answer} for answer in answers])
    examples = read_examples(path, "spatial_transformation", "train")
    assert [isinstance(example, BadSample) for example in examples] == [True, True, False, True]
    assert "sample 0: the answer is 'nothing'; expected calls" in str(examples[0])


def test_what_stands_in_the_place_of_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with _seconds(10), pytest.raises(UserError, match="pipe.json"):
        find_splits(tmp_path / "pipe.json", TASK)
    (tmp_path / "Visual-Counting-test.json").mkdir()
    os.mkfifo(tmp_path / "Visual-Counting-ood-test.json")
    _write(tmp_path / "Visual-Counting-train.json", [ROW])
    assert list(find_splits(tmp_path, TASK)) == ["train"]
    with pytest.raises(UserError, match="no such file or folder"):
        find_splits("a\0b", TASK)


def _bad_rows(folder):
    """Rows that cannot be used, by the cause under which they are counted."""
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not a picture")
    _gif_bomb(folder / "bomb.gif")
    _picture(folder / "long.png", (1, 20_000))
    _picture(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:-30])
    pictures = "pipe.png folder.png empty.png text.png bomb.gif long.png cut.png lost.png".split()
    pictures += ["../../etc/passwd", "/etc/passwd", "a\0.png", "\ud800.png"]
    texts = [{"problem": "\ud800"}, {"answer": "\udfff"}, {"cot": "a\udc00b"}]
    return {
        "picture": [{"image": ["whole.png", name]} for name in pictures],
        "malformed": [*texts, {"answer": None}, {"image": [None]}, {"problem": 7}],
        "prompt too long": [{"problem": "many " * 400}, {"image": ["whole.png"] * 70}],
        "target too long": [{"cot": "many " * 400}],
    }


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
@pytest.mark.parametrize("epochs", [1, None])
def test_every_bad_row_is_skipped_and_counted_by_its_cause(processor, tmp_path, name, epochs):
    (tmp_path / "set").mkdir()
    bad = _bad_rows(tmp_path / "set")
    rows = [ROW | row for cause in bad for row in bad[cause]]
    good = [ROW | {"id": f"good {n}", "image": ["whole.png"] * (n % 3)} for n in range(11)]
    for place, row in enumerate(good):
        rows.insert(2 * place, row)
    _write(tmp_path / "set" / name, rows)
    with _seconds(120):
        examples = read_examples(
            tmp_path / "set" / name, TASK, "train", image_root=str(tmp_path / "set")
        )
        assert len(examples) == len(rows)
        loader = _loader(examples, processor, epochs=epochs, max_skipped_share=0.8)
        batches = list(itertools.islice(loader, len(rows)))
        loader.close()
    seen = {example.id for batch in batches for example in batch.examples}
    assert seen == {row["id"] for row in good}
    counts = {cause: len(found) for cause, found in bad.items()}
    # Without end, rows come again.
    assert loader.skipped == counts if epochs else set(loader.skipped) == set(counts)


def test_ids_may_hold_anything(processor):
    ids = ["", "a\nb", "\0", "\ud800", "../../a", "n" * 10_000]
    examples = [Example(name, (), "How many?", "3", "One.", TASK) for name in ids]
    assert _ids(_loader(examples, processor, thought_dropout=0.5)) == sorted(ids)
