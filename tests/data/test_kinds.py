"""An instruction asks for the kind of answer that there is."""

import dataclasses

import pytest

from rrft_jax.data import Example, Prompts, messages
from rrft_jax.data.kinds import is_of_four, kind_asked, kind_of
from rrft_jax.tasks import TASKS

ANSWERS = {
    "letter": [
        "A", "E", "b", "(B)", "[B]", "B.", "C).", "B. 12", "B.12", "(C) red", "A: 3", "（B）",
        "B、12", "$B$", "**C**", r"\boxed{B}", r"\text{D}", "Option B", "Answer: C", "B) 5 cm",
        "Ｂ", "（Ｂ）", "选项B", "答案：C",
    ],
    "letters": ["AB", "ABD", "A, C", "A,C", "A and C", "(A)(C)", "B/D", "a, c", "A C", "A、B"],
    "value": [
        "7", "-2.5", "−7", "60°", "5 cm", "$5", "50%", "1/2", "0,500", "3:4", "(3, 4)", "½", "√3",
        "π", r"\frac{1}{2}", r"$2\sqrt{221}$", r"\boxed{72}", "x = 5", "∠ABC = 60°", "2x + 1",
        "x + 2", "3 red cubes", "1e5",
    ],
    "word": [
        "Yes", "No", "NO", "yes", "True", "red", "the red cube", "three", "BAD", "ac", "U.S.", "是",
        "north-west", "yes/no", "None", r"\text{Yes}", "Figure 2",
    ],
}  # fmt: skip
ASKED = {"letter": "the letter of an option", "letters": "the letters of", "word": "a word"}


@pytest.mark.parametrize(
    "kind, answer", [(kind, answer) for kind in ANSWERS for answer in ANSWERS[kind]]
)
def test_the_kind_of_an_answer(kind, answer):
    assert kind_of(answer) == kind
    for task, value in (
        ("structure_perception", "an integer or a decimal number"),
        ("visual_counting", "a number"),
    ):
        example = Example("a", (), "Which?", answer, None, task)
        for paradigm in ("reason_rft", "zero_shot"):
            text = messages(example, paradigm)[0]["content"][-1]["text"]
            for name, asked in (ASKED | {"value": value}).items():
                assert (f", {asked}" in text) == (name == kind), text


@pytest.mark.parametrize(
    "question, answer, four",
    [
        ("Which?", "B", True),
        ("Which? (A) 1 (B) 2 (C) 3 (D) 4", "(D)", True),
        ("At point E. Which?\nA. 1\nB. 2\nC. 3\nD. 4", "A", True),
        ("Which?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5", "A", False),
        ("Which? (A) 1 (B) 2 (C) 3 (D) 4 (E) 5", "B", False),
        ("Which? A) 1 B) 2 C) 3 D) 4 E) 5", "C", False),
        ("Which?", "E", False),
        ("Which?", "b", False),
    ],
)
def test_four_letters_are_named_where_there_are_four(question, answer, four):
    assert is_of_four(question, answer) == four
    example = Example("a", (), question, answer, None, "structure_perception")
    assert ("(A, B, C or D)" in Prompts().instruction(example, "reason_rft")) == four


def test_own_words_stand_in_for_the_kinds_that_they_do_not_name():
    words = {
        "visual_counting": "N", "structure_perception.letter": "L",
        "structure_perception.value": "V", "visual_counting.zero_shot": "Z",
        "visual_counting.word": "W",
    }  # fmt: skip
    prompts = Prompts(replaced=words)
    structure = Example("a", (), "Which?", "", None, "structure_perception")
    counting = dataclasses.replace(structure, task="visual_counting")

    def asked(example, answer, paradigm="cot_sft"):
        return prompts.instruction(dataclasses.replace(example, answer=answer), paradigm)

    assert [asked(structure, x) for x in ("E", "AB", "7", "Yes")] == ["L", "L", "V", "V"]
    assert [asked(counting, x) for x in ("E", "AB", "7", "Yes")] == ["N", "N", "N", "W"]
    assert asked(counting, "Yes", "zero_shot") == "Z"
    assert "a word" in asked(structure, "Yes", "zero_shot")


@pytest.mark.parametrize("task", TASKS)
def test_an_unknown_answer_is_asked_for_in_the_words_of_the_known_one(task):
    drawn = [TASKS[task].sample(split, 0, i, 56) for split in TASKS[task].splits for i in range(20)]
    for paradigm in ("reason_rft", "zero_shot"):
        for example in drawn:
            unknown = dataclasses.replace(example, answer="")
            assert messages(unknown, paradigm) == messages(example, paradigm)


@pytest.mark.parametrize(
    "question, kind",
    [
        ("How many?", "value"),
        ("Which?\nA. red\nB. blue", "letter"),
        ("Which? (A) 1 (B) 2", "letter"),
        ("Which? A: red, B: blue", "letter"),
        ("Line A meets line B. How long is AB?", "value"),
    ],
)
def test_a_question_with_options_asks_for_a_letter(question, kind):
    assert kind_asked(question) == kind
    assert kind_asked(question, "red") == "word"


def test_without_an_answer_the_letters_are_those_of_the_question():
    example = Example("a", (), "Which? (A) 1 (B) 2", "", None, "structure_perception")
    assert "(A, B, C or D)" in str(messages(example, "reason_rft"))
    five = dataclasses.replace(example, problem="Which? A) 1 B) 2 C) 3 D) 4 E) 5")
    assert "the letter of an option" in str(messages(five, "reason_rft"))
    assert "(A, B, C or D)" not in str(messages(five, "reason_rft"))
