"""The tag that a template opens counts as the reply's: whole replies to completions, and back."""

import dataclasses

import pytest

from rrft_jax.errors import UserError
from rrft_jax.rewards import format as formats
from rrft_jax.tasks import CUSTOM, TASKS, find
from rrft_jax.tasks.opening import completion_of, opening, reply_of

TASK = TASKS["visual_counting"]
PLAIN, OPEN = "assistant\n", "assistant\n<think>\n"
REPLY = "<think>\nOne, two.\n</think>\n<answer>\n2\n</answer>"


@pytest.mark.parametrize("task", [*TASKS, CUSTOM])
def test_every_task_here_counts_the_tag_of_a_thought(task):
    assert opening(find(task), OPEN) == "<think>\n"
    assert find(task).opening in formats.TAGS


@pytest.mark.parametrize(
    ("prompt", "counted"),
    [
        (PLAIN, ""),
        ("", ""),
        (OPEN, "<think>\n"),
        ("assistant\n<think>", "<think>"),
        ("assistant\n<think>\n\n", "<think>\n\n"),
        ("assistant\n<think>\n\n</think>\n\n", ""),  # the thought is over: none is open
        ("Say <think> first.<|im_end|>\n<|im_start|>assistant\n", ""),
        ("assistant\n<thinking>", ""),
    ],
)
def test_the_tag_counts_where_the_prompt_ends_in_it(prompt, counted):
    assert opening(TASK, prompt) == counted
    assert reply_of(TASK, prompt, "x") == counted + "x"


def test_a_task_may_count_completions_alone():
    bare = dataclasses.replace(TASK, opening="")
    assert reply_of(bare, OPEN, "2") == "2" and completion_of(bare, OPEN, REPLY) == REPLY


@pytest.mark.parametrize("thought", ["One, two.", "", "See <think> twice.", "  so"])
@pytest.mark.parametrize("end", [PLAIN, OPEN, "assistant\n<think>"])
def test_a_reply_of_a_completion_is_whole_again(thought, end):
    reply = f"<think>\n{thought}\n</think>\n<answer>\n2\n</answer>"
    completion = completion_of(TASK, end, reply)
    assert reply_of(TASK, end, completion) == reply
    assert completion.startswith("<think>") == (end == PLAIN)


def test_spaces_of_a_template_are_not_doubled():
    assert completion_of(TASK, "<think>\n\n", REPLY) == REPLY.removeprefix("<think>\n")
    empty = "<think>\n\n</think>\n<answer>\n2\n</answer>"
    assert reply_of(TASK, "<think>\n\n", completion_of(TASK, "<think>\n\n", empty)) == empty


def test_the_layout_is_that_of_the_whole_reply():
    completion = completion_of(TASK, OPEN, REPLY)
    assert formats.reward(reply_of(TASK, OPEN, completion)) == 1
    assert formats.reward(completion) == 0
    assert formats.reward(reply_of(TASK, OPEN, REPLY)) == 0  # it opens the thought twice
    assert formats.reward(reply_of(TASK, PLAIN, REPLY)) == 1


def test_a_bare_answer_closes_the_thought_and_is_found_behind_it():
    for answer in ("2", "B", "change_size(1, 'small')"):
        reply = reply_of(TASK, OPEN, completion_of(TASK, OPEN, answer))
        assert reply == f"<think>\n\n</think>\n\n{answer}"
        assert formats.extract_answer(reply) == (answer, False)


def test_parts_before_the_thought_are_refused_in_one_line():
    reply = f"<summary>\ns\n</summary>\n<caption>\nc\n</caption>\n{REPLY}"
    assert completion_of(TASK, PLAIN, reply) == reply
    with pytest.raises(UserError, match="begins with '<summary>'; set data.variant=") as error:
        completion_of(TASK, OPEN, reply)
    assert "\n" not in str(error.value)
