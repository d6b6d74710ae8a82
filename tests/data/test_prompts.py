"""What is asked depends on task and paradigm, and gives nothing of the answer away but its kind."""

import dataclasses
import itertools

import pytest

from rrft_jax.data import PARADIGMS, TASKS, Example, messages, target
from rrft_jax.errors import UserError

EXAMPLE = Example("a", ("one.png", "two.png"), "How many?", "7319", "One, two.", "visual_counting")


def _text(example, paradigm, **kwargs):
    return messages(example, paradigm, **kwargs)[-1]["content"][-1]["text"]


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_alone_is_asked_for_by_the_question_alone(task):
    example = dataclasses.replace(EXAMPLE, task=task)
    assert _text(example, "ans_sft") == "How many?"
    assert target(example, "ans_sft") == "7319"


@pytest.mark.parametrize("task, paradigm", list(itertools.product(TASKS, PARADIGMS[1:])))
def test_reasoning_is_asked_for_with_both_tags(task, paradigm):
    text = _text(dataclasses.replace(EXAMPLE, task=task), paradigm)
    assert text.startswith("How many?\n")
    assert "<think> </think>" in text and "<answer> </answer>" in text
    assert "7319" not in text


def test_every_picture_has_its_placeholder_before_the_text():
    (turn,) = messages(EXAMPLE, "cot_sft")
    assert turn["role"] == "user"
    assert [part["type"] for part in turn["content"]] == ["image", "image", "text"]


def test_the_counting_instruction_is_short():
    assert len(_text(EXAMPLE, "reason_rft").removeprefix("How many?\n").split()) <= 30


def test_options_are_answered_by_a_letter_and_all_letters_are_asked_alike():
    geometry = dataclasses.replace(EXAMPLE, task="structure_perception")
    texts = {_text(dataclasses.replace(geometry, answer=x), "reason_rft") for x in "ABCD"}
    assert len(texts) == 1 and "letter" in texts.pop()
    assert "letter" not in _text(geometry, "reason_rft")


def test_the_transformation_rules_name_every_call():
    text = _text(dataclasses.replace(EXAMPLE, task="spatial_transformation"), "reason_rft")
    for name in ("size", "color", "material", "shape", "position"):
        assert f"change_{name}(object_id, value)" in text
    for value in ("medium", "purple", "rubber", "cylinder", "behind_right"):
        assert f"'{value}'" in text


def test_a_system_prompt_replaces_the_instruction():
    system, user = messages(EXAMPLE, "reason_rft", system="Count well.")
    assert system == {"role": "system", "content": [{"type": "text", "text": "Count well."}]}
    assert user["content"][-1]["text"] == "How many?"


def test_targets():
    full = "<think>\nOne, two.\n</think>\n<answer>\n7319\n</answer>"
    empty = "<think>\n\n</think>\n<answer>\n7319\n</answer>"
    assert target(EXAMPLE, "cot_sft") == full
    assert target(EXAMPLE, "cot_sft", think=False) == empty
    assert target(dataclasses.replace(EXAMPLE, cot=None), "reason_rft") == empty


def test_unknown_names_list_the_choices():
    with pytest.raises(UserError, match="'rft' is unknown.*reason_rft_zero"):
        messages(EXAMPLE, "rft")
    with pytest.raises(UserError, match="'counting' is unknown.*visual_counting"):
        messages(dataclasses.replace(EXAMPLE, task="counting"), "cot_sft")
