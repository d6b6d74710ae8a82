"""What the model is asked, and what it should have said: task x paradigm -> chat and target.

Whoever learns the answer alone reads the question alone. Whoever learns to reason is also told
where the thought and the answer go, and of which kind the answer is; nothing else about it.
"""

from typing import Any

from rrft_jax.data.example import Example
from rrft_jax.errors import UserError

TASKS = ("visual_counting", "structure_perception", "spatial_transformation")
PARADIGMS = ("ans_sft", "cot_sft", "reason_rft_zero", "reason_rft")

# Short, because the smallest models read it with every question.
_NUMBER = (
    "Think inside <think> </think>, "
    "then give the final answer, a number, inside <answer> </answer>."
)

_LETTER_OR_VALUE = (
    "Work out the solution step by step inside <think> </think>. "
    "Then give the final answer inside <answer> </answer>: {kind}, and nothing else."
)
_LETTER = "the letter of the option you choose (A, B, C or D)"
_VALUE = "a single integer or decimal number"

_TRANSFORMATION = """\
Explain how the first picture becomes the second by a sequence of 1 to 4 calls, in order. \
Each call has the form func(object_id, 'value'). The calls and their values are:
change_size(object_id, value): 'small', 'medium', 'large'
change_color(object_id, value): 'yellow', 'gray', 'cyan', 'blue', 'brown', 'green', 'red', 'purple'
change_material(object_id, value): 'glass', 'metal', 'rubber'
change_shape(object_id, value): 'cube', 'sphere', 'cylinder'
change_position(object_id, value): 'front', 'behind', 'left', 'right', 'front_left', \
'front_right', 'behind_left', 'behind_right'
An object is listed as ('object_id', 'shape', 'size', 'color', 'material').
Compare the pictures object by object inside <think> </think>. \
Then give only the sequence of calls, separated by commas, inside <answer> </answer>."""


def messages(
    example: Example, paradigm: str, system: str | None = None
) -> list[dict[str, str | list[dict[str, Any]]]]:
    """The chat that asks `example`'s question: its pictures first, then the text.

    Args:
      example: its pictures appear as placeholders only; the processor is handed them apart.
      paradigm: one of PARADIGMS.
      system: a system prompt. It takes the place of the instruction after the question.

    Returns:
      The messages, in the form that chat templates of Hugging Face tokenizers take.
    """
    text = example.problem
    if system is None and _known(paradigm, PARADIGMS, "paradigm") != "ans_sft":
        text = f"{text}\n{_instruction(example)}"
    content = [{"type": "image"} for _ in example.images] + [{"type": "text", "text": text}]
    chat = [{"role": "user", "content": content}]
    if system is not None:
        chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return chat


def target(example: Example, paradigm: str, *, think: bool = True) -> str:
    """What a model of this paradigm should reply; `think=False` leaves the thought empty."""
    if _known(paradigm, PARADIGMS, "paradigm") == "ans_sft":
        return example.answer
    thought = (example.cot or "").strip() if think else ""
    return f"<think>\n{thought}\n</think>\n<answer>\n{example.answer}\n</answer>"


def _instruction(example: Example) -> str:
    task = _known(example.task, TASKS, "task")
    if task == "visual_counting":
        return _NUMBER
    if task == "spatial_transformation":
        return _TRANSFORMATION
    # The options are in the question already: telling that a letter is wanted gives nothing away.
    is_letter = example.answer.strip() in ("A", "B", "C", "D")
    return _LETTER_OR_VALUE.format(kind=_LETTER if is_letter else _VALUE)


def _known(name: str, choices: tuple[str, ...], what: str) -> str:
    if name not in choices:
        raise UserError(f"{what} {name!r} is unknown; choose one of {', '.join(choices)}")
    return name
