"""Every part of a record's question is used, or refused by its key, in every form of record."""

import pickle

import pytest

from rrft_jax.data import BadSample, messages, target
from rrft_jax.data.prompts import Prompts
from tests.records import chat_of, read_rows, refusal_of, row_of

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
    for row in (row_of(**ours, **extra), chat_of("How many?", "1", **ours, **extra)):
        (example,) = read_rows(tmp_path, row)
        assert example.extra == extra and pickle.loads(pickle.dumps(example)) == example
    (letters,) = read_rows(tmp_path, row_of(answer="A", A="1", B="2", C="", area=3))
    assert letters.extra == {"area": 3}
    assert "a text that is not Unicode" in refusal_of(tmp_path, row_of(note=["\ud800"]))


# The rest of a question.


@pytest.mark.parametrize("key", ["system", "system_prompt", "turn"])
@pytest.mark.parametrize("paradigm", ["ans_sft", "cot_sft", "zero_shot"])
def test_a_rows_system_prompt_is_its_system_turn(tmp_path, key, paradigm):
    row = chat_of("How many?")
    if key == "turn":
        row["messages"].insert(0, {"role": "system", "content": " Answer in French. "})
    else:
        row[key] = "Answer in French."
    example, plain = read_rows(tmp_path, row, row_of())
    system, user = messages(example, paradigm)
    part = {"type": "text", "text": "Answer in French."}
    assert system == {"role": "system", "content": [part]}
    assert [user] == messages(plain, paradigm)  # the instruction is asked for all the same
    system, user = messages(example, paradigm, Prompts(system="Use tags."))
    assert system["content"][0]["text"] == "Use tags.\n\nAnswer in French."
    assert user["content"][-1]["text"] == "How many?"


def test_system_prompts_that_differ_are_refused(tmp_path):
    row = chat_of("How many?", system="Answer in French.")
    row["messages"].insert(0, {"role": "system", "content": "Think first."})
    message = "'system' and turn 1 of 'messages' hold different system prompts, 'Answer in"
    assert refusal_of(tmp_path, row).startswith(message)
    row["system"] = "Think first."
    (example,) = read_rows(tmp_path, row)
    assert example.system == "Think first."
    assert refusal_of(tmp_path, row_of(system=["a"])) == "'system' is list; expected a text"
    assert "<image> in the system prompt" in refusal_of(tmp_path, row_of(system="See <image>."))
    row = chat_of("How many?")
    row["messages"].insert(1, {"role": "system", "content": "Think first."})
    assert "is no chat of two" in refusal_of(tmp_path, row)


@pytest.mark.parametrize(
    "key",
    [
        *("context", "hint", "history", "input", "instructions", "system_message"),
    ],
)
@pytest.mark.parametrize("row", [row_of(), chat_of("How many?")])
def test_other_parts_of_a_question_are_refused(tmp_path, key, row):
    message = refusal_of(tmp_path, row | {key: "There are two."})
    assert message.startswith(f"{key!r} is not read beside the question; put its text into it, ")
    examples = read_rows(tmp_path, row | {key: "How many?"}, row | {key: ""}, row | {key: []})
    assert [example.problem for example in examples] == ["How many?"] * 3


@pytest.mark.parametrize("key", ["question", "query", "prompt", "instruction", "conversations"])
@pytest.mark.parametrize("row", [row_of(), chat_of("How many?")])
def test_two_questions_agree_or_are_refused(tmp_path, key, row):
    def asked(text):
        chat = chat_of(text, form="conversations")["conversations"]
        return {key: chat if key == "conversations" else text}

    examples = read_rows(
        tmp_path,
        row | asked("How  many? "),
        row | {key: ""},
        row | {key: None},
        row | {"image": "a.png"} | asked("<image>How many?"),
    )
    assert [example.problem.split() for example in examples] == [["How", "many?"]] * 4
    message = refusal_of(tmp_path, row | asked("Why?"))
    assert "hold different questions; keep one of them, or choose it by --config.data" in message


# Thoughts, answers and their tags.


@pytest.mark.parametrize(
    "key", ["cot", "reasoning_content", "reasoning", "thought", "thinking", "rationale"]
)
def test_a_thought_is_read_under_its_usual_keys(tmp_path, key):
    inside = chat_of("How many?")
    inside["messages"][1][key] = "One."
    rows = [
        row_of(),
        inside,
        chat_of("How many?", form="conversations"),
        chat_of("How many?", "<think>One.</think>1"),
    ]
    for row in (rows[0], rows[2], rows[3]):
        row[key] = "One."
    assert [example.cot for example in read_rows(tmp_path, *rows)] == ["One."] * 4


def test_thoughts_that_differ_are_refused(tmp_path):
    row = row_of(cot="One.", reasoning="Two.")
    assert refusal_of(tmp_path, row).startswith(
        "'cot' and 'reasoning' hold different thoughts, 'One"
    )
    row = chat_of("How many?", "<think>One.</think>1", cot="Two.")
    assert "'cot' and the reply in 'messages' hold different thoughts" in refusal_of(tmp_path, row)
    row = chat_of("How many?", cot="Two.")
    row["messages"][1]["thinking"] = "One."
    assert "'thinking' of the reply hold different thoughts" in refusal_of(tmp_path, row)
    assert refusal_of(tmp_path, row_of(thinking=["One."])) == "'thinking' is list; expected a text"


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
    (example,) = read_rows(tmp_path, {"problem": "How many?"} | fields)
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
    assert refusal_of(tmp_path, {"problem": "How many?"} | fields).startswith(message)


def test_a_chat_and_keys_beside_it_agree(tmp_path):
    rows = [
        chat_of("How many?", FULL, answer="2"),
        chat_of("How many?", "<think>One, two.</think>", solution="2"),
        chat_of("How many?", "2", cot=FULL),
    ]
    for example in read_rows(tmp_path, *rows):
        assert (example.cot, example.answer) == ("One, two.", "2")
    row = chat_of("How many?", FULL, answer="3")
    assert "hold different answers, '3' and '2'" in refusal_of(tmp_path, row)


@pytest.mark.parametrize("where", ["answer", "cot", "chat"])
def test_a_summary_and_a_caption_come_before_the_thought_of_their_variant(tmp_path, where):
    calls = "change_size(1, 'small')"
    lead = "<summary>Look.</summary>\n<caption>A cube.</caption>"
    reply = f"{lead}<think>It shrinks.</think><answer>{calls}</answer>"
    row = chat_of("What?", reply) if where == "chat" else {"problem": "What?", where: reply}
    (example,) = read_rows(tmp_path, row, task="spatial_transformation")
    assert (example.cot, example.answer) == ("It shrinks.", calls)
    assert target(example, "cot_sft", prompts=Prompts(variant="caption")) == (
        "<summary>\nLook.\n</summary>\n<caption>\nA cube.\n</caption>\n"
        f"<think>\nIt shrinks.\n</think>\n<answer>\n{calls}\n</answer>"
    )
    assert target(example, "ans_sft") == calls
    with pytest.raises(BadSample, match="only data.variant=caption asks so"):
        target(example, "cot_sft")


def test_caption_tags_inside_of_a_thought_are_refused_where_the_variant_has_them(tmp_path):
    row = row_of(cot="It says <caption>.", answer="change_size(1, 'small')")
    (example,) = read_rows(tmp_path, row, task="spatial_transformation")
    assert "<caption>" in target(example, "cot_sft")
    with pytest.raises(BadSample, match="a tag of a summary or a caption inside"):
        target(example, "cot_sft", prompts=Prompts(variant="caption"))
