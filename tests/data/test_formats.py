"""Rows as other programs write them, and pictures in every form, become the same examples."""

import base64
import io
import json

import pytest
from PIL import Image

from rrft_jax.data import BadSample, messages, open_image, read_examples
from rrft_jax.errors import UserError

TASK = "visual_counting"
QUESTION, REPLY = "How many squares are there?", "<think>There is one.</think><answer>1</answer>"


def _bytes(colour="red", kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (60, 60), colour).save(file, kind)
    return file.getvalue()


def _text(content):
    return base64.b64encode(content).decode()


def _read(folder, *rows, columns=None, image_root=""):
    for name in "ab":
        (folder / f"{name}.png").write_bytes(_bytes("red" if name == "a" else "blue"))
    (folder / "data.json").write_text(json.dumps(rows))
    path = str(folder / "data.json")
    return list(read_examples(path, TASK, "train", image_root, columns=columns))


def _said(example):
    """The parts of the question; a picture is the colour of its pixels."""
    pictures = iter(example.images)
    (turn,) = messages(example, "ans_sft")
    return [
        part.get("text") or open_image(next(pictures)).convert("RGB").getpixel((0, 0))
        for part in turn["content"]
    ]


RED, BLUE = (255, 0, 0), (0, 0, 255)


def _turns(*texts, keys=("role", "content"), names=("user", "assistant")):
    return [dict(zip(keys, (names[n % 2], text))) for n, text in enumerate(texts)]


def _parts(*parts):
    return [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]


IMAGES = {"images": ["a.png"]}
BARE, NAMED = {"type": "image"}, {"type": "image", "image": "a.png"}


@pytest.mark.parametrize(
    "row",
    [
        # trl: a chat as the prompt, with picture parts or without; a completion.
        IMAGES | {"prompt": _turns(QUESTION), "solution": REPLY},
        {"image": "a.png", "prompt": _turns(_parts(BARE, QUESTION)), "solution": REPLY},
        IMAGES | {"prompt": _turns(QUESTION), "completion": _turns(REPLY, names=["assistant"])},
        IMAGES | {"prompt": _turns(QUESTION), "solution": {"role": "assistant", "content": REPLY}},
        # Chats as texts, which tables without nested columns hold.
        *(
            IMAGES | {key: json.dumps(_turns(f"<image>{QUESTION}", REPLY))}
            for key in ("messages", "conversations", "prompt")
        ),
        IMAGES | {"prompt": json.dumps(_turns(QUESTION)), "solution": REPLY},
        IMAGES
        | {"prompt": _turns(_parts(BARE, QUESTION)), "problem": QUESTION, "solution": REPLY},
        # ms-swift: the user's turn, and a solution.
        IMAGES | {"messages": _turns(f"<image>{QUESTION}"), "solution": REPLY},
        {"images": [{"path": "a.png", "bytes": None}]} | {"prompt": QUESTION, "solution": REPLY},
        # Qwen: content parts, of several spellings.
        {"messages": _turns(_parts(NAMED, QUESTION), _parts(REPLY))},
        {"messages": _turns([{"image": "a.png"}, {"text": QUESTION}], REPLY)},
        {"messages": _turns({"type": "text", "text": QUESTION}, REPLY)} | IMAGES,
        {
            "messages": _turns(
                _parts({"type": "image_url", "image_url": {"url": "a.png"}}, QUESTION), REPLY
            )
        },
        {
            "messages": _turns(
                [{"type": "image", "image": "a.png", "text": None}]
                + [{"type": "text", "text": QUESTION, "image": None}],
                REPLY,
            )
        },
        {"messages": _turns(_parts({"type": "image", "url": "a.png"}, QUESTION), REPLY)} | IMAGES,
        # ShareGPT, with all the usual names.
        *(
            IMAGES | {key: _turns(f"<image>\n{QUESTION}", REPLY, keys=keys, names=names)}
            for key in ("conversations", "messages", "conversation")
            for keys in (("from", "value"), ("role", "content"))
            for names in (
                *(("human", "gpt"), ("user", "assistant"), ("user", "model"), ("human", "bot")),
                ("Human", "GPT"),
            )
        ),
        # Pairs of columns.
        *(
            IMAGES | {asked: mark + QUESTION, answered: REPLY}
            for mark in ("", "<image>", "<image>\n")
            for asked, answered in (
                *(("instruction", "output"), ("question", "answer"), ("query", "response")),
                *(("prompt", "completion"), ("problem", "solution"), ("input", "output")),
            )
        ),
        IMAGES | {"instruction": QUESTION, "input": "", "output": REPLY},
        IMAGES | {"instruction": "How many squares", "input": "are there?", "output": REPLY},
    ],
)  # fmt: skip
def test_usual_rows_are_read_alike(tmp_path, row):
    (example,) = _read(tmp_path, row)
    picture, question = _said(example)
    assert (picture, " ".join(question.split())) == (RED, QUESTION)
    assert (example.cot, example.answer, example.extra) == ("There is one.", "1", {})


def test_pictures_stand_between_the_parts_of_a_chat(tmp_path):
    two = {"type": "image", "image": "b.png"}
    named = {"messages": _turns(_parts("A is ", NAMED, ", B is ", two, "."), "A")}
    bare = {"messages": _turns(_parts("A is ", BARE, ", B is ", BARE, "."), "A")}
    for example in _read(tmp_path, named, bare | {"images": ["a.png", "b.png"]}):
        assert _said(example) == ["A is ", RED, ", B is ", BLUE, "."]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"messages": _turns(_parts(BARE, QUESTION), "1")}, "1 <image> in the question for 0"),
        ({"messages": _turns(_parts(NAMED, BARE, QUESTION), "1")}, "1 of the 2 picture parts in"),
        (
            {"messages": _turns(_parts(NAMED, QUESTION), "1"), "image": "b.png"},
            "'messages' and another key name different pictures",
        ),
        ({"messages": _turns(_parts({"type": "tool_use"}, QUESTION), "1")}, "turn 1 has a part {'"),
        ({"messages": _turns(["a", "b"], "1")}, "turn 1 has a part 'a'; expected"),
        ({"messages": _turns(QUESTION, "1", names=("user", "tool"))}, "'messages' is no chat of"),
        ({"messages": _turns(QUESTION, "1", "Sure?", "Yes")}, "'messages' is no chat of two"),
        ({"prompt": QUESTION, "chosen": "1", "rejected": "2"}, "no answer; expected a text as 'an"),
        ({"prompt": _turns(QUESTION), "completion": _turns("1")}, "'completion' is [{'role': 'us"),
        ({"text": QUESTION, "answer": "1"}, "no question; expected a text as 'problem' or 'quest"),
        ({"query": QUESTION, "response": "1", "answer": "2"}, "'answer' and 'response' hold diff"),
    ],
)
def test_what_is_not_understood_is_refused_with_a_cure(tmp_path, row, message):
    with pytest.raises(UserError) as error:
        _read(tmp_path, row)
    said = str(error.value).partition("sample 0: ")[2]
    assert said.startswith(message) and "\n" not in said
    if said.startswith(("no ", "'answer' and", "'messages' and")):
        assert "data.columns" in said


# Columns of one's own.


def test_columns_of_the_user_take_the_place_of_the_usual_ones(tmp_path):
    row = {
        "caption": QUESTION, "meta": {"label": 1, "n": 2}, "pic": "a.png", "why": "One.",
        "name": "x", "query": "another", "answer": "7", "context": "of a book", "thinking": "no",
        "kind": "easy", "image": {"bytes": "?"}, "n.b": 3,
    }  # fmt: skip
    columns = {
        "problem": "caption", "answer": "meta.label", "image": "pic", "cot": "why", "id": "name",
        "level": "kind",
    }  # fmt: skip
    (example,) = _read(tmp_path, row, columns=columns)
    assert _said(example) == [RED, QUESTION]
    assert (example.id, example.answer, example.cot) == ("x", "1", "One.")
    assert example.part == "level easy"
    kept = ("meta", "query", "answer", "context", "thinking", "image", "n.b")
    assert example.extra == {key: row[key] for key in kept} | {"level": "easy"}


def test_a_mapped_column_may_be_a_chat_or_options(tmp_path):
    row = {"talk": _turns(_parts(NAMED, QUESTION), "two"), "given": ["one", "two"]}
    (example,) = _read(tmp_path, row, columns={"problem": "talk", "options": "given"})
    assert _said(example) == [RED, f"{QUESTION}\nA. one\nB. two"] and example.answer == "B"


def test_the_mapping_decides_between_a_chat_and_the_columns_beside_it(tmp_path):
    chat = _turns("Be kind.", names=("system",)) + _turns(QUESTION, REPLY)
    row = {"messages": chat, "gold": "2", "why": "Two.", "told": "Be brief."}
    columns = {"answer": "gold", "cot": "why", "system": "told"}
    (example,) = _read(tmp_path, row, columns=columns)
    assert (example.answer, example.cot, example.system) == ("2", "Two.", "Be brief.")
    for part in columns:
        with pytest.raises(UserError, match="hold different .* or choose it by data.columns"):
            _read(tmp_path, {"messages": chat, part: row[columns[part]]})


@pytest.mark.parametrize("column", ["image", "question", "answer"])
def test_a_column_that_labels_a_row_stays_what_it_is(tmp_path, column):
    row = {"image": "a.png", "question": QUESTION, "answer": "1"}
    for part in ("id", "level"):
        (example,) = _read(tmp_path, row, columns={part: column})
        assert len(example.images) == 1 and (example.problem, example.answer) == (QUESTION, "1")
        assert {"id": example.id, "level": example.part.removeprefix("level ")}[part] == row[column]


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"problem": "nowhere"}, "data.columns.problem=nowhere: no row has this column; expected "),
        ({"answer": "meta.nowhere"}, "data.columns.answer=meta.nowhere: no row has this column"),
        ({"answer": "question.text"}, "data.columns.answer=question.text: no row has this"),
    ],
)
def test_a_column_that_no_row_has_is_an_error_that_lists_them(tmp_path, columns, message):
    with pytest.raises(UserError) as error:
        _read(tmp_path, {"question": QUESTION, "answer": "1"}, {"meta": {"a": 1}}, columns=columns)
    assert str(error.value).startswith(message)
    assert str(error.value).endswith("expected one of question, answer, meta, meta.a")


def test_a_row_that_lacks_a_mapped_column_costs_itself_alone(tmp_path):
    rows = [{"ask": QUESTION, "answer": "1"}, {"question": QUESTION, "answer": "1"}]
    first, second = _read(tmp_path, *rows, columns={"problem": "ask"})
    assert first.problem == QUESTION and "no question" in str(second)


# Pictures.


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF"])
def test_every_kind_of_picture_is_read_in_every_form(tmp_path, kind):
    content = _bytes(kind=kind)
    text = _text(content)
    (tmp_path / "file").write_bytes(content)
    forms = [
        *("file", {"path": "file"}, f"file://{tmp_path}/file", text, text.rstrip("=")),
        *(f"data:image/{kind.lower()};base64,{text}", {"url": f"data:image;base64,{text}"}),
        *({"bytes": text}, {"bytes": text, "path": None}, {"bytes": text, "path": "lost.png"}),
    ]
    chat = {"messages": _turns(_parts({"type": "image", "image": text}, QUESTION), "1")}
    rows = [{"image": form, "problem": QUESTION, "answer": "1"} for form in forms] + [chat]
    for example in _read(tmp_path, *rows, {"images": forms, "problem": QUESTION, "answer": "1"}):
        *pictures, question = _said(example)
        assert question == QUESTION and pictures
        for picture in pictures:
            assert max(abs(a - b) for a, b in zip(picture, RED)) < 8


def test_pictures_inside_of_a_record_have_the_limits_of_files(tmp_path):
    bomb = b"P6 100000 100000 255\n"
    rows = [{"bytes": _text(bomb)}, f"data:image/x;base64,{_text(bomb)}", {"bytes": _text(b"a")}]
    rows = [{"image": one, "problem": QUESTION, "answer": "1"} for one in rows]
    for example, message in zip(_read(tmp_path, *rows), ["pixels"] * 2 + ["cannot identify"]):
        with pytest.raises(BadSample, match=message) as error:
            open_image(example.images[0])
        assert error.value.cause == "picture" and "0x" not in str(error.value)


def test_two_keys_may_hold_one_picture(tmp_path):
    content = _text(_bytes())
    same = {"image": {"bytes": content, "path": "a.png"}, "image_path": "pictures/a.png"}
    (example,) = _read(tmp_path, {"problem": QUESTION, "answer": "1"} | same)
    assert _said(example) == [RED, QUESTION]
    other = {"image": {"bytes": content}, "img": {"bytes": _text(_bytes("blue"))}}
    with pytest.raises(UserError, match="name different pictures.*data.columns.image=image"):
        _read(tmp_path, {"problem": QUESTION, "answer": "1"} | other)
