"""Every picture of a record is read in its place, or refused by its key."""

import pytest

from rrft_jax.data import BadSample, messages
from rrft_jax.data.prompts import Prompts
from tests.records import TASK, chat_of, read_rows, refusal_of, row_of

PAD = "<|vision_start|><|image_pad|><|vision_end|>"
PICTURE = object()


def _parts(example, paradigm="ans_sft", prompts=None):
    """The user's turn: its texts, and PICTURE for each picture."""
    content = messages(example, paradigm, prompts or Prompts())[-1]["content"]
    return [part.get("text", PICTURE) for part in content]


def _names(example):
    return [image.rsplit("/", 1)[-1] for image in example.images]


# Placeholders.


@pytest.mark.parametrize("form", ["problem", "messages", "conversations"])
@pytest.mark.parametrize("mark", ["<image>", PAD, "<|image_pad|>"])
@pytest.mark.parametrize(
    "question, parts",
    [
        ("How many?", [PICTURE, PICTURE, "How many?"]),
        ("@@How many?", [PICTURE, PICTURE, "How many?"]),
        ("@\n@\nHow many?", [PICTURE, PICTURE, "How many?"]),
        ("A is @ and B is @. Which?", ["A is ", PICTURE, " and B is ", PICTURE, ". Which?"]),
        ("Which is red? @@", ["Which is red? ", PICTURE, PICTURE]),
        ("Which?\n@\n@\n", ["Which?\n", PICTURE, "\n", PICTURE]),
        ("@\nIs it in @?", [PICTURE, "Is it in ", PICTURE, "?"]),
        ("@ Is it in this: @", [PICTURE, "Is it in this: ", PICTURE]),
    ],
)
def test_pictures_stand_where_their_placeholders_stood(tmp_path, form, mark, question, parts):
    question = question.replace("@", mark)
    row = row_of(problem=question) if form == "problem" else chat_of(question, form=form)
    (example,) = read_rows(tmp_path, row | {"images": ["a.png", "b.png"]})
    assert _parts(example) == parts
    assert example.problem == "".join(part for part in parts if part is not PICTURE)
    *before, instruction = _parts(example, "cot_sft")
    ends_with_text = isinstance(parts[-1], str)
    assert before == (parts[:-1] if ends_with_text else parts)
    assert instruction.startswith(f"{parts[-1]}\n" if ends_with_text else "\n")
    assert "<answer>" in instruction


def test_a_question_for_people_has_its_placeholders(tmp_path):
    inside, front = read_rows(
        tmp_path,
        row_of(problem=f"A is <image>, B is {PAD}.", images=["a.png", "b.png"]),
        row_of(problem="<image>How many?", image="a.png"),
    )
    assert inside.question == "A is <image>, B is <image>."
    assert front.question == front.problem == "How many?"


def test_own_words_stand_around_a_question_with_pictures_inside(tmp_path):
    (example,) = read_rows(tmp_path, row_of(problem="Is <image> red?", image="a.png"))
    own = Prompts(replaced={TASK: "Q: {problem} A:"})
    assert _parts(example, "cot_sft", own) == ["Q: Is ", PICTURE, " red? A:"]


@pytest.mark.parametrize("form", ["problem", "messages", "conversations"])
@pytest.mark.parametrize(
    "question, images, message",
    [
        ("<image><image>How many?", ["a.png"], "2 <image> in the question for 1 pictures"),
        ("<image>How many?", ["a.png", "b.png"], "1 <image> in the question for 2 pictures"),
        ("<image>How many?", [], "1 <image> in the question for 0 pictures"),
        (f"How many in {PAD}?", [], "1 <image> in the question for 0 pictures"),
        (f"{PAD}<image>How many?", ["a.png"], "2 <image> in the question for 1 pictures"),
        ("What does <image> mean?", [], "1 <image> in the question for 0 pictures"),
        ("<image 1>How many?", ["a.png"], "<image 1> in the question stands for no picture"),
        ("<image_1>How many?", ["a.png"], "<image_1> in the question stands for no picture"),
        ("<|image_1|>How many?", ["a.png"], "<|image_1|> in the question stands for no"),
        ("<IMAGE>How many?", ["a.png"], "<IMAGE> in the question stands for no picture"),
        ("<img>How many?", ["a.png"], "<img> in the question stands for no picture"),
        ("<image>a.png</image>How many?", ["a.png"], "</image> in the question stands for no"),
        ("<img src='a.png'/>How many?", ["a.png"], "<img src='a.png'/> in the question stands"),
        ("<image: a.png> How many?", ["a.png"], "<image: a.png> in the question stands for no"),
        ("![a](a.png) How many?", ["a.png"], "![a](a.png) in the question stands for no picture"),
        ("<|vision_start|>How many?", ["a.png"], "<|vision_start|> in the question stands"),
        ("<video>How many?", ["a.png"], "<video> in the question: videos and sounds"),
        ("<audio>How many?", [], "<audio> in the question: videos and sounds"),
        ("How many in <|video_pad|>?", [], "<|video_pad|> in the question: videos and sounds"),
        ("<image>", ["a.png"], "no question"),
    ],
)
def test_placeholders_that_fit_no_picture_are_refused(tmp_path, form, question, images, message):
    row = row_of(problem=question) if form == "problem" else chat_of(question, form=form)
    assert refusal_of(tmp_path, row | {"images": images}).startswith(message)


@pytest.mark.parametrize("row", [row_of(cot="In <image> one."), chat_of("How many?", f"{PAD} 1")])
def test_a_placeholder_in_a_reply_is_refused(tmp_path, row):
    assert "pictures stand in questions alone" in refusal_of(tmp_path, row | {"image": "a.png"})


# Pictures under other keys.


@pytest.mark.parametrize(
    "key",
    [
        "image", "images", "image_path", "image_paths", "image_file", "image_url", "img", "imgs",
        "img_path", "picture", "pictures", "photo", "pixel", "pixel_values", "path", "file_name",
        "filename", "image_name",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["c/a.png", ["c/a.PNG", "b.jpeg"], {"path": "a.webp"}])
def test_pictures_are_read_under_their_usual_keys(tmp_path, key, value):
    plain, chat = read_rows(tmp_path, row_of(**{key: value}), chat_of("How many?", **{key: value}))
    (expected,) = read_rows(tmp_path, row_of(image=value))
    assert expected.images and plain.images == chat.images == expected.images


def test_keys_that_name_the_same_pictures_agree(tmp_path):
    for fields in (
        {"image": "a/b.png", "file_name": "b.png"},
        {"images": ["a/b.png"], "image_path": "b.png"},
        {"image": "a/b.png", "path": "./", "image_id": "x.png", "source": "b.png"},
        {"image": "a/b.png", "images": [], "img": None},
    ):
        (example,) = read_rows(tmp_path, row_of(id="x.png", **fields))
        assert _names(example) == ["b.png"]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"image": "a.png", "image_path": "b.png"}, "'image' and 'image_path' name different"),
        ({"image": "a.png", "images": ["a.png", "b.png"]}, "'image' and 'images' name different"),
        ({"img": "b.png", "file_name": "ab.png"}, "'img' and 'file_name' name different"),
        ({"scene": "a.png"}, "'scene' is 'a.png': a picture under this key is not read; name it"),
        ({"image": "a.png", "depth": "b.PNG"}, "'depth' is 'b.PNG': a picture under this key"),
        ({"views": ["a", "b.jpg"]}, "'views' is ['a', 'b.jpg']: a picture under this key"),
        ({"scene": {"path": "a.png"}}, "'scene' is {'path': 'a.png'}: a picture under"),
        ({"scene": [{"bytes": "iVBORw0KGgo" + "A" * 50}]}, "'scene' is [{'bytes'"),
        ({"scene": "data:image/png;base64,iVBO"}, "'scene' is 'data:image/png;base64,iVBO'"),
        ({"scene": "/9j/4AAQSkZJRg" + "A" * 50}, "'scene' is '/9j/"),
        ({"flickr": "https://example.com/a.jpg?size=2"}, "'flickr' is 'https://example.com"),
        ({"pixel_values": [[0.1, 0.2]]}, "a picture is [0.1, 0.2] under 'pixel_values'; expected"),
        ({"image": [{"url": 7}]}, "a picture is {'url': 7} under 'image'; expected a path"),
        ({"video": "a"}, "'video' is 'a': videos and sounds are not read"),
        ({"videos": ["a.mp4"], "image": "a.png"}, "'videos' is ['a.mp4']: videos and sounds"),
        ({"audio": {"path": "a.wav"}}, "'audio' is {'path': 'a.wav'}: videos and sounds"),
        ({"video_path": "x"}, "'video_path' is 'x': videos and sounds"),
        ({"path": "./a.mp4", "data_type": "video"}, "'path' is './a.mp4': videos and sounds"),
        ({"clip": ["a.webm"]}, "'clip' is ['a.webm']: videos and sounds"),
        ({"path": "a", "data_type": "video"}, "'data_type' is 'video': videos and sounds"),
        ({"meta": {"file": "a.png"}}, "'meta' has 'file', 'a.png': a picture under this key"),
        ({"extra_info": {"images": ["a"]}}, "'extra_info' has 'images', ['a']: a picture"),
    ],
)
def test_other_pictures_and_films_are_refused_by_their_key(tmp_path, fields, message):
    assert refusal_of(tmp_path, row_of(**fields)).startswith(message)


def test_what_is_no_picture_is_nobodys_business(tmp_path):
    fields = {
        "level": 2, "source": "COCO", "url": "https://example.com/page", "video": None,
        "videos": [], "image_id": 7, "file_name": "part-1.json", "data_type": "image",
        "size": [480, 320], "objects": [{"bbox": [1, 2, 3, 4]}], "audio": "",
        "meta": {"original": "b.png", "index": 3},
    }  # fmt: skip
    (example,) = read_rows(tmp_path, row_of(image="a.png", problem="Is a.png red?", **fields))
    assert _names(example) == ["a.png"] and example.problem == "Is a.png red?"


@pytest.mark.parametrize("kind", ["video", "audio", "video_url", "input_audio"])
def test_films_in_the_parts_of_a_chat_are_refused(tmp_path, kind):
    row = chat_of([{"type": kind, kind: "a"}, {"type": "text", "text": "How many?"}])
    assert refusal_of(tmp_path, row) == f"turn 1 has a part of type {kind!r}: it is not read"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"images": ["b.png"]}, "'images' is ['b.png']: a picture under this key is not read"),
        ({"video": "a"}, "'video' is 'a': videos and sounds"),
        ({"tool_calls": [{"name": "zoom"}]}, "'tool_calls' of a turn are not read"),
        ({"reasoning": "One."}, "a thought in the turn of 'user'"),
    ],
)
def test_what_a_turn_holds_besides_is_refused(tmp_path, fields, message):
    row = chat_of("How many?", image="a.png")
    row["messages"][0] |= fields
    assert refusal_of(tmp_path, row).startswith(message)


@pytest.mark.parametrize("root", [True, False])
def test_a_file_address_is_a_path(tmp_path, root):
    (tmp_path / "a b.png").touch()
    names = [
        f"file://{tmp_path}/a b.png",
        f"file://{tmp_path}/a%20b.png",
        f"file:{tmp_path}/a b.png",
    ]
    names += [
        f"file:///{tmp_path}/a b.png",
        f"FILE://localhost{tmp_path}/a b.png",
        "file://a b.png",
    ]
    rows = [row_of(image=name) for name in names]
    examples = read_rows(tmp_path, *rows, image_root=str(tmp_path) if root else "")
    assert [example.images for example in examples] == [(str(tmp_path / "a b.png"),)] * len(names)


def test_a_file_address_does_not_lead_out_of_the_root(tmp_path):
    (tmp_path / "root").mkdir()
    names = ["file:///etc/passwd", f"file://{tmp_path}/secret.png", "file://../secret.png"]
    names += [f"file://{tmp_path}/root/%2e%2e/secret.png"]
    rows = [row_of(image=name) for name in names]
    for example in read_rows(tmp_path, *rows, image_root=str(tmp_path / "root")):
        (picture,) = example.images
        assert isinstance(picture, BadSample) and "not opened, it leads out of" in str(picture)
