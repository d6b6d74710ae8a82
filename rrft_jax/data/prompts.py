"""What the model is asked, and what it should have said: task x paradigm -> chat and target.

Whoever learns the answer alone reads the question alone. Whoever learns to reason is also told
where the thought and the answer go, and of which kind the answer is; nothing else about it. A model
that has learnt neither is evaluated zero-shot: it is told to give the bare answer, and its kind.

A checkpoint that was trained elsewhere knows other words. `data.prompts` names a JSON or YAML file
that replaces any of the instructions, by these keys:

    visual_counting                  a question whose answer is a number
    structure_perception.value       the same of this task
    structure_perception.letter      the answer is the letter of an option
    structure_perception.letters     the letters of several options
    structure_perception.word        any other text, such as "Yes"
    visual_counting.letter, visual_counting.letters, visual_counting.word
    spatial_transformation
    spatial_transformation.caption   under data.variant=caption: a summary and a caption come first
    spatial_transformation.brief     under data.variant=brief: without the list of calls

and by each of them but .caption with .zero_shot at its end, as `visual_counting.zero_shot`, for the
zero-shot evaluation. Where a file has no text for a kind of answer, that for the nearest kind is
taken: `.letter` for `.letters`, `.value` for `.word`, `visual_counting` for all of its task.

A text follows the question on a new line; one with {problem} in it has the question there instead.

A row may have a system prompt of its own. It is the system turn of that row, behind the one of
`data.system_prompt` if there is any. It adds to the instruction, which is asked for all the same.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rrft_jax.data.example import Example
from rrft_jax.data.kinds import is_of_four, kind_of
from rrft_jax.data.pictures import BadRow
from rrft_jax.data.replies import CAPTION_TAG
from rrft_jax.data.settings import read_settings
from rrft_jax.errors import UserError
from rrft_jax.rewards import TASKS

PARADIGMS = ("ans_sft", "cot_sft", "reason_rft_zero", "reason_rft")
ZERO_SHOT = "zero_shot"  # asked in evaluation alone: there's nothing to learn from it
VARIANTS = ("", "caption", "brief")

# Short, because the smallest models read it with every question.
BRIEF = (
    "Think inside <think> </think>, then give the final answer, {kind}, inside <answer> </answer>."
)
BARE = "Give the final answer alone, {kind}, without any explanation."

_CALLS = """\
Explain how the first picture becomes the second by a sequence of 1 to 4 calls, in order. \
Each call has the form func(object_id, 'value'). The calls and their values are:
change_size(object_id, value): 'small', 'medium', 'large'
change_color(object_id, value): 'yellow', 'gray', 'cyan', 'blue', 'brown', 'green', 'red', 'purple'
change_material(object_id, value): 'glass', 'metal', 'rubber'
change_shape(object_id, value): 'cube', 'sphere', 'cylinder'
change_position(object_id, value): 'front', 'behind', 'left', 'right', 'front_left', \
'front_right', 'behind_left', 'behind_right'
An object is listed as ('object_id', 'shape', 'size', 'color', 'material').
"""
_TRANSFORMATION = (
    _CALLS + "{parts}\n"
    "Then give only the sequence of calls, separated by commas, inside <answer> </answer>."
)

_OF_FOUR = " (A, B, C or D)"  # left out of a question with other options
_LETTER, _LETTERS = f"the letter of an option{_OF_FOUR}", "the letters of one or more options"
_WORD = "a word or a few words"
_KINDS = {
    "visual_counting": "a number",
    "structure_perception.letter": _LETTER,
    "structure_perception.letters": _LETTERS,
    "structure_perception.value": "an integer or a decimal number",
    "structure_perception.word": _WORD,
    "spatial_transformation.brief": "a sequence of calls",
    "visual_counting.letter": _LETTER,
    "visual_counting.letters": _LETTERS,
    "visual_counting.word": _WORD,
}

# Whose text a file's own words have for a kind of answer that they don't name.
_NEAREST = {
    "structure_perception.letters": "structure_perception.letter",
    "structure_perception.word": "structure_perception.value",
    "visual_counting.letter": "visual_counting",
    "visual_counting.letters": "visual_counting",
    "visual_counting.word": "visual_counting",
}

_INSTRUCTIONS = {
    **{key: BRIEF.format(kind=kind) for key, kind in _KINDS.items()},
    **{f"{key}.{ZERO_SHOT}": BARE.format(kind=kind) for key, kind in _KINDS.items()},
    "spatial_transformation": _TRANSFORMATION.format(
        parts="Compare the pictures object by object inside <think> </think>."
    ),
    "spatial_transformation.caption": _TRANSFORMATION.format(
        parts=(
            "First outline how you will go about it inside <summary> </summary>. "
            "Then describe what both pictures show inside <caption> </caption>. "
            "Then compare them object by object inside <think> </think>."
        )
    ),
    f"spatial_transformation.{ZERO_SHOT}": (
        _CALLS + "Give the sequence of calls alone, separated by commas, without any explanation."
    ),
}


@dataclasses.dataclass(frozen=True)
class Prompts:
    """How questions are put; the default is the project's own way. `read_prompts` checks one."""

    system: str = ""  # a system prompt; it takes the place of the instruction after the question
    variant: str = ""  # one of VARIANTS
    replaced: Mapping[str, str] = dataclasses.field(default_factory=dict)  # key -> instruction

    def instruction(self, example: Example, paradigm: str) -> str:
        """What `example` is told about its reply under a paradigm that tells anything.

        Raises:
          UserError: the example's task is unknown.
        """
        key = _known(example.task, TASKS, "task")
        # The options are in the question already: that a letter is wanted gives nothing away.
        kind = kind_of(example.answer) if key != "spatial_transformation" else self.variant
        if kind and f"{key}.{kind}" in _KINDS or kind == "caption":
            key += f".{kind}"
        ending = f".{ZERO_SHOT}" if paradigm == ZERO_SHOT else ""
        for own in (key, _NEAREST.get(key, key)):
            if own + ending in self.replaced:
                return self.replaced[own + ending]
        text = _INSTRUCTIONS[key + ending]
        if kind == "letter" and not is_of_four(example.problem, example.answer):
            text = text.replace(_OF_FOUR, "")
        return text


OWN = Prompts()


def read_prompts(
    task: str, paradigm: str, *, file: str = "", system: str = "", variant: str = ""
) -> Prompts:
    """The `Prompts` of a config's `data.prompts`, `data.system_prompt` and `data.variant`.

    Raises:
      UserError: there's no such variant of the task, a field would have no effect beside another,
        or the file can't be read, is no mapping, or holds an unknown key or a value that is no
        text.
    """
    if variant not in VARIANTS:
        raise UserError(f"data.variant={variant}: expected caption, brief, or nothing")
    if variant and task != "spatial_transformation":
        raise UserError(f"data.variant={variant}: only spatial_transformation has it, not {task}")
    if variant == "caption" and paradigm == ZERO_SHOT:
        raise UserError(
            f"data.variant={variant}: no effect, as {paradigm} asks for the bare answer"
        )
    # Said, so that nobody takes what such a run measures for an effect of the fields.
    reason = "data.system_prompt" if system else paradigm if paradigm == "ans_sft" else ""
    for field, value in (("variant", variant), ("prompts", file)):
        if reason and value not in ("", "brief"):  # which is what asks for least anyway
            raise UserError(
                f"data.{field}={value}: no effect, as {reason} asks without instruction"
            )
    return Prompts(system, variant, _read_instructions(file) if file else {})


def _read_instructions(file: str) -> dict[str, str]:
    where = f"data.prompts={file}"
    texts = read_settings(file, "data.prompts", "file of texts")
    if not isinstance(texts, dict):
        raise UserError(f"{where}: expected a mapping of keys to texts, found {_kind(texts)}")
    for key, value in texts.items():
        if key not in _INSTRUCTIONS:
            raise UserError(f"{where}: key {key!r}: expected one of {', '.join(_INSTRUCTIONS)}")
        if not isinstance(value, str):
            raise UserError(f"{where}: {key}: expected a text, found {_kind(value)}")
    return texts


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def messages(
    example: Example, paradigm: str, prompts: Prompts = OWN
) -> list[dict[str, str | list[dict[str, Any]]]]:
    """The chat that asks `example`'s question: each picture where it stands, by default in front.

    Args:
      example: its pictures appear as placeholders only; the processor is handed them apart.
      paradigm: one of PARADIGMS, or ZERO_SHOT.
      prompts: whose words; the project's own by default.

    Returns:
      The messages, in the form that chat templates of Hugging Face tokenizers take.

    Raises:
      UserError: an instruction repeats a question that has pictures inside of it.
    """
    before = after = ""
    asks = _known(paradigm, (*PARADIGMS, ZERO_SHOT), "paradigm") != "ans_sft"
    if asks and not prompts.system:
        instruction = prompts.instruction(example, paradigm)
        before, here, after = instruction.partition("{problem}")
        if not here:
            before, after = "", f"\n{instruction}"
        if "{problem}" in after and example.image_offsets:
            raise UserError(
                f"data.prompts: {{problem}} stands more than once in {instruction!r:.60}, but "
                f"sample {example.id} has pictures inside of its question; use it once"
            )
        after = after.replace("{problem}", example.problem)
    content = _content(example, before, after)
    chat = [{"role": "user", "content": content}]
    if system := "\n\n".join(filter(None, (prompts.system, example.system))):
        chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return chat


def _content(example: Example, before: str, after: str) -> list[dict[str, Any]]:
    """The parts of a question between two texts."""
    picture = {"type": "image"}
    if not example.image_offsets:
        text = before + example.problem + after
        return [picture for _ in example.images] + [{"type": "text", "text": text}]
    ends = (*example.image_offsets, len(example.problem))
    texts = [example.problem[a:b] for a, b in zip((0, *ends), ends)]
    texts[0], texts[-1] = before + texts[0], texts[-1] + after
    parts = [{"type": "text", "text": texts[0]}]
    for text in texts[1:]:
        parts += [picture, {"type": "text", "text": text}]
    return [part for part in parts if part.get("text") != ""]


def target(example: Example, paradigm: str, *, think: bool = True, prompts: Prompts = OWN) -> str:
    """What a model of this paradigm should reply; `think=False` leaves the thought empty.

    Raises:
      BadRow: the reply has a summary and a caption that this variant doesn't ask for, or a tag
        inside of its parts.
    """
    if _known(paradigm, PARADIGMS, "paradigm") == "ans_sft":
        return example.answer
    thought = (example.cot or "").strip() if think else ""
    if example.preface and prompts.variant != "caption":
        raise BadRow(
            "malformed", "its reply has a summary and a caption; only data.variant=caption asks so"
        )
    if prompts.variant == "caption" and CAPTION_TAG.search(thought + example.answer):
        raise BadRow("malformed", "a tag of a summary or a caption inside of its thought or answer")
    preface = f"{example.preface}\n" if example.preface else ""
    return f"{preface}<think>\n{thought}\n</think>\n<answer>\n{example.answer}\n</answer>"


def _known(name: str, choices: tuple[str, ...], what: str) -> str:
    if name not in choices:
        raise UserError(f"{what} {name!r} is unknown; choose one of {', '.join(choices)}")
    return name
