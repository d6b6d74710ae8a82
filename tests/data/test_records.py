"""Every part of a record's question is used, or refused by its key, in every form of record."""

import json
import pickle

import pytest

from rrft_jax.data import BadSample, messages, read_examples, target
from rrft_jax.data.prompts import Prompts

TASK = "visual_counting"
PAD = "<|vision_start|><|image_pad|><|vision_end|>"
PICTURE = object()


def _read(tmp_path, *rows, task=TASK, image_root=""):
    """Return the examples after a good record; a file of bad records alone is an error."""
    good = {"problem": "How many?", "answer": "1"}
    (tmp_path / "data.json").write_text(json.dumps([good, *rows]))
    return read_examples(str(tmp_path / "data.json"), task, "train", image_root)[1:]


def _row(**fields):
    return {"problem": "How many?", "answer": "1"} | fields


def _chat(question, reply="1", form="messages", **fields):
    if form == "messages":
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    else:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    return {form: turns} | fields


def _refused(tmp_path, row, **options):
    (bad,) = _read(tmp_path, row, **options)
    assert isinstance(bad, BadSample) and bad.cause == "malformed", bad
    return str(bad).partition("sample 1: ")[2]


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
    row = _row(problem=question) if form == "problem" else _chat(question, form=form)
    (example,) = _read(tmp_path, row | {"images": ["a.png", "b.png"]})
    assert _parts(example) == parts
    assert example.problem == "".join(part for part in parts if part is not PICTURE)
    *before, instruction = _parts(example, "cot_sft")
    ends_with_text = isinstance(parts[-1], str)
    assert before == (parts[:-1] if ends_with_text else parts)
    assert instruction.startswith(f"{parts[-1]}\n" if ends_with_text else "\n")
    assert "<answer>" in instruction


def test_a_question_for_people_has_its_placeholders(tmp_path):
    inside, front = _read(
        tmp_path,
        _row(problem=f"A is <image>, B is {PAD}.", images=["a.png", "b.png"]),
        _row(problem="<image>How many?", image="a.png"),
    )
    assert inside.question == "A is <image>, B is <image>."
    assert front.question == front.problem == "How many?"


def test_own_words_stand_around_a_question_with_pictures_inside(tmp_path):
    (example,) = _read(tmp_path, _row(problem="Is <image> red?", image="a.png"))
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
    row = _row(problem=question) if form == "problem" else _chat(question, form=form)
    assert _refused(tmp_path, row | {"images": images}).startswith(message)


@pytest.mark.parametrize("row", [_row(cot="In <image> one."), _chat("How many?", f"{PAD} 1")])
def test_a_placeholder_in_a_reply_is_refused(tmp_path, row):
    assert "pictures stand in questions alone" in _refused(tmp_path, row | {"image": "a.png"})


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
    plain, chat = _read(tmp_path, _row(**{key: value}), _chat("How many?", **{key: value}))
    (expected,) = _read(tmp_path, _row(image=value))
    assert expected.images and plain.images == chat.images == expected.images


def test_keys_that_name_the_same_pictures_agree(tmp_path):
    for fields in (
        {"image": "a/b.png", "file_name": "b.png"},
        {"images": ["a/b.png"], "image_path": "b.png"},
        {"image": "a/b.png", "path": "./", "image_id": "x.png", "source": "b.png"},
        {"image": "a/b.png", "images": [], "img": None},
    ):
        (example,) = _read(tmp_path, _row(id="x.png", **fields))
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
    assert _refused(tmp_path, _row(**fields)).startswith(message)


def test_what_is_no_picture_is_nobodys_business(tmp_path):
    fields = {
        "level": 2, "source": "COCO", "url": "https://example.com/page", "video": None,
        "videos": [], "image_id": 7, "file_name": "part-1.json", "data_type": "image",
        "size": [480, 320], "objects": [{"bbox": [1, 2, 3, 4]}], "audio": "",
        "meta": {"original": "b.png", "index": 3},
    }  # fmt: skip
    (example,) = _read(tmp_path, _row(image="a.png", problem="Is a.png red?", **fields))
    assert _names(example) == ["a.png"] and example.problem == "Is a.png red?"


@pytest.mark.parametrize("kind", ["video", "audio", "video_url", "input_audio"])
def test_films_in_the_parts_of_a_chat_are_refused(tmp_path, kind):
    row = _chat([{"type": kind, kind: "a"}, {"type": "text", "text": "How many?"}])
    assert _refused(tmp_path, row) == f"turn 1 has a part of type {kind!r}: it is not read"


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
    row = _chat("How many?", image="a.png")
    row["messages"][0] |= fields
    assert _refused(tmp_path, row).startswith(message)


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
    rows = [_row(image=name) for name in names]
    examples = _read(tmp_path, *rows, image_root=str(tmp_path) if root else "")
    assert [example.images for example in examples] == [(str(tmp_path / "a b.png"),)] * len(names)


def test_a_file_address_does_not_lead_out_of_the_root(tmp_path):
    (tmp_path / "root").mkdir()
    names = ["file:///etc/passwd", f"file://{tmp_path}/secret.png", "file://../secret.png"]
    names += [f"file://{tmp_path}/root/%2e%2e/secret.png"]
    rows = [_row(image=name) for name in names]
    for example in _read(tmp_path, *rows, image_root=str(tmp_path / "root")):
        (picture,) = example.images
        assert isinstance(picture, BadSample) and "not opened, it leads out of" in str(picture)


# Columns for rewards.


def test_every_column_that_is_not_ours_is_extra(tmp_path):
    extra = {
        "boxes": [[1, 2.5, 3, 4]], "meta": {"label": "cat", "score": None}, "level": 2,
        "type": "both", "source": "COCO", "file_name": "part-1.json", "image_id": 7, "ü": True,
    }  # fmt: skip
    ours = {
        "id": 3, "image": "a.png", "path": "b/a.png", "system": "Be brief.", "cot": "One.",
        "options": ["0", "1"],
    }  # fmt: skip
    for row in (_row(**ours, **extra), _chat("How many?", "1", **ours, **extra)):
        (example,) = _read(tmp_path, row)
        assert example.extra == extra and pickle.loads(pickle.dumps(example)) == example
    (letters,) = _read(tmp_path, _row(answer="A", A="1", B="2", C="", area=3))
    assert letters.extra == {"area": 3}
    assert "a text that is not Unicode" in _refused(tmp_path, _row(note=["\ud800"]))


# The rest of a question.


@pytest.mark.parametrize("key", ["system", "system_prompt", "turn"])
@pytest.mark.parametrize("paradigm", ["ans_sft", "cot_sft", "zero_shot"])
def test_a_rows_system_prompt_is_its_system_turn(tmp_path, key, paradigm):
    row = _chat("How many?")
    if key == "turn":
        row["messages"].insert(0, {"role": "system", "content": " Answer in French. "})
    else:
        row[key] = "Answer in French."
    example, plain = _read(tmp_path, row, _row())
    system, user = messages(example, paradigm)
    part = {"type": "text", "text": "Answer in French."}
    assert system == {"role": "system", "content": [part]}
    assert [user] == messages(plain, paradigm)  # the instruction is asked for all the same
    system, user = messages(example, paradigm, Prompts(system="Use tags."))
    assert system["content"][0]["text"] == "Use tags.\n\nAnswer in French."
    assert user["content"][-1]["text"] == "How many?"


def test_system_prompts_that_differ_are_refused(tmp_path):
    row = _chat("How many?", system="Answer in French.")
    row["messages"].insert(0, {"role": "system", "content": "Think first."})
    message = "'system' and turn 1 of 'messages' hold different system prompts, 'Answer in"
    assert _refused(tmp_path, row).startswith(message)
    row["system"] = "Think first."
    (example,) = _read(tmp_path, row)
    assert example.system == "Think first."
    assert _refused(tmp_path, _row(system=["a"])) == "'system' is list; expected a text"
    assert "<image> in the system prompt" in _refused(tmp_path, _row(system="See <image>."))
    row = _chat("How many?")
    row["messages"].insert(1, {"role": "system", "content": "Think first."})
    assert "is no chat of two" in _refused(tmp_path, row)


@pytest.mark.parametrize(
    "key",
    [
        *("context", "hint", "history", "input", "instructions", "system_message"),
    ],
)
@pytest.mark.parametrize("row", [_row(), _chat("How many?")])
def test_other_parts_of_a_question_are_refused(tmp_path, key, row):
    message = _refused(tmp_path, row | {key: "There are two."})
    assert message.startswith(f"{key!r} is not read beside the question; put its text into it, ")
    examples = _read(tmp_path, row | {key: "How many?"}, row | {key: ""}, row | {key: []})
    assert [example.problem for example in examples] == ["How many?"] * 3


@pytest.mark.parametrize("key", ["question", "query", "prompt", "instruction", "conversations"])
@pytest.mark.parametrize("row", [_row(), _chat("How many?")])
def test_two_questions_agree_or_are_refused(tmp_path, key, row):
    def asked(text):
        chat = _chat(text, form="conversations")["conversations"]
        return {key: chat if key == "conversations" else text}

    examples = _read(
        tmp_path,
        row | asked("How  many? "),
        row | {key: ""},
        row | {key: None},
        row | {"image": "a.png"} | asked("<image>How many?"),
    )
    assert [example.problem.split() for example in examples] == [["How", "many?"]] * 4
    message = _refused(tmp_path, row | asked("Why?"))
    assert "hold different questions; keep one of them, or choose it by --config.data" in message


# Thoughts, answers and their tags.


@pytest.mark.parametrize(
    "key", ["cot", "reasoning_content", "reasoning", "thought", "thinking", "rationale"]
)
def test_a_thought_is_read_under_its_usual_keys(tmp_path, key):
    inside = _chat("How many?")
    inside["messages"][1][key] = "One."
    rows = [
        _row(),
        inside,
        _chat("How many?", form="conversations"),
        _chat("How many?", "<think>One.</think>1"),
    ]
    for row in (rows[0], rows[2], rows[3]):
        row[key] = "One."
    assert [example.cot for example in _read(tmp_path, *rows)] == ["One."] * 4


def test_thoughts_that_differ_are_refused(tmp_path):
    row = _row(cot="One.", reasoning="Two.")
    assert _refused(tmp_path, row).startswith("'cot' and 'reasoning' hold different thoughts, 'One")
    row = _chat("How many?", "<think>One.</think>1", cot="Two.")
    assert "'cot' and the reply in 'messages' hold different thoughts" in _refused(tmp_path, row)
    row = _chat("How many?", cot="Two.")
    row["messages"][1]["thinking"] = "One."
    assert "'thinking' of the reply hold different thoughts" in _refused(tmp_path, row)
    assert _refused(tmp_path, _row(thinking=["One."])) == "'thinking' is list; expected a text"


FULL = "<think>One, two.</think><answer>2</answer>"


@pytest.mark.parametrize(
    "fields",
    [
        {"cot": "One, two.", "answer": "2"},
        {"cot": "<think>One, two.</think>", "answer": "2"},
        {"cot": " <think>\nOne, two.\n</think>\n", "answer": "<answer>2</answer>"},
        {"cot": FULL, "answer": "2"},
        {"cot": FULL},
        {"cot": "<think>One, two.</think>\n2", "answer": 2},
        {"thought": FULL, "solution": FULL},
        {"answer": FULL},
        {"solution": FULL},
        {"solution": "<think>One, two.</think> 2"},
        {"answer": "<answer>2</answer>", "rationale": "One,\ntwo."},
        {"answer": "2", "solution": FULL},
        {"answer": "2", "solution": "<think>One, two.</think>"},
        {"cot": "One, two.", "solution": FULL},
        {"cot": "<THINK>One, two.</THINK>", "answer": "<Answer>2</Answer>"},
        {"cot": "<thinking>One, two.</thinking>", "answer": "2"},
        {"solution": "<reasoning>One, two.</reasoning><answer>2</answer>"},
    ],
)
def test_outer_tags_are_taken_off(tmp_path, fields):
    (example,) = _read(tmp_path, {"problem": "How many?"} | fields)
    assert (" ".join(example.cot.split()), example.answer) == ("One, two.", "2")
    reply = target(example, "cot_sft")
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert reply.count(tag) == 1


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"cot": FULL, "answer": "3"}, "'cot' and 'answer' hold different answers, '2' and '3'"),
        ({"answer": "2", "solution": "3"}, "'answer' and 'solution' hold different answers"),
        ({"cot": "Two.", "answer": FULL}, "'cot' and 'answer' hold different thoughts"),
        ({"cot": f"<think>{FULL}</think>", "answer": "2"}, "'cot' is '<think><think>One"),
        ({"cot": "<think><think>One.</think></think>", "answer": "2"}, "'cot' is '<think><thi"),
        ({"cot": "One. </think>", "answer": "2"}, "'cot' is 'One. </think>': tags inside of"),
        ({"cot": "<think>One.", "answer": "2"}, "'cot' is '<think>One.': tags inside of"),
        ({"cot": "One <answer>2</answer>", "answer": "2"}, "'cot' is 'One <answer>2</answer>': t"),
        ({"cot": "One <ANSWER>2</ANSWER>", "answer": "2"}, "'cot' is 'One <ANSWER>2</ANSWER>': t"),
        ({"answer": "<answer>2"}, "'answer' is '<answer>2': tags inside of a part, or one of"),
        ({"answer": f"<answer>{FULL}</answer>"}, "'answer' is '<answer><think>"),
        ({"answer": "<answer>1</answer><answer>2</answer>"}, "'answer' is '<answer>1</answer>"),
        ({"answer": "<think>One.</think>"}, "the answer is empty"),
        ({"answer": "<answer> </answer>"}, "the answer is empty"),
        ({"cot": "<summary>a</summary><think>One.</think>", "answer": "2"}, "'cot' is '<summary>"),
    ],
)
def test_tags_inside_and_contradictions_are_refused(tmp_path, fields, message):
    assert _refused(tmp_path, {"problem": "How many?"} | fields).startswith(message)


def test_a_chat_and_keys_beside_it_agree(tmp_path):
    rows = [
        _chat("How many?", FULL, answer="2"),
        _chat("How many?", "<think>One, two.</think>", solution="2"),
        _chat("How many?", "2", cot=FULL),
    ]
    for example in _read(tmp_path, *rows):
        assert (example.cot, example.answer) == ("One, two.", "2")
    row = _chat("How many?", FULL, answer="3")
    assert "hold different answers, '3' and '2'" in _refused(tmp_path, row)


@pytest.mark.parametrize("where", ["answer", "cot", "chat"])
def test_a_summary_and_a_caption_come_before_the_thought_of_their_variant(tmp_path, where):
    calls = "change_size(1, 'small')"
    lead = "<summary>Look.</summary>\n<caption>A cube.</caption>"
    reply = f"{lead}<think>It shrinks.</think><answer>{calls}</answer>"
    row = _chat("What?", reply) if where == "chat" else {"problem": "What?", where: reply}
    (example,) = _read(tmp_path, row, task="spatial_transformation")
    assert (example.cot, example.answer) == ("It shrinks.", calls)
    assert target(example, "cot_sft", prompts=Prompts(variant="caption")) == (
        "<summary>\nLook.\n</summary>\n<caption>\nA cube.\n</caption>\n"
        f"<think>\nIt shrinks.\n</think>\n<answer>\n{calls}\n</answer>"
    )
    assert target(example, "ans_sft") == calls
    with pytest.raises(BadSample, match="only data.variant=caption asks so"):
        target(example, "cot_sft")


def test_caption_tags_inside_of_a_thought_are_refused_where_the_variant_has_them(tmp_path):
    row = _row(cot="It says <caption>.", answer="change_size(1, 'small')")
    (example,) = _read(tmp_path, row, task="spatial_transformation")
    assert "<caption>" in target(example, "cot_sft")
    with pytest.raises(BadSample, match="a tag of a summary or a caption inside"):
        target(example, "cot_sft", prompts=Prompts(variant="caption"))
