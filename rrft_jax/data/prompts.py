"""The chat that asks a question, and the reply that SFT teaches, for each paradigm.

A model that learns the answer alone reads the question alone. A model that learns to reason is also
told where the thought and the answer go, and of which kind the answer is; nothing else about it. A
model that has learnt neither is evaluated zero-shot: it is told to give the bare answer, and its
kind. The words are those of the task's record (`tasks/`).

A checkpoint that was trained elsewhere knows other words. `data.prompts` names a JSON or YAML file
that replaces any of the instructions, by these keys:

    TASK                  the task's instruction
    TASK.KIND             for answers of a kind: letter, letters, value or word
    TASK.VARIANT          under data.variant=VARIANT
    ....zero_shot         any of these with this ending, for the zero-shot evaluation

The message about an unknown key lists the keys that exist. If a file has no text for a kind, the
text of the nearest kind is taken, such as `.letter` for `.letters`; a task's record names it.

A text follows the question on a new line; a text with {problem} in it has the question there.

A row may have a system prompt of its own. It is the system turn of that row, behind the one of
`data.system_prompt` if there is any. It adds to the instruction, which is asked for all the same.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rrft_jax.data.config_files import read_settings
from rrft_jax.data.kinds import is_of_four, kind_asked
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.replies import CAPTION_TAG
from rrft_jax.errors import UserError
from rrft_jax.tasks import CUSTOM, TASKS, Task, find
from rrft_jax.tasks.custom import INSTRUCTION
from rrft_jax.tasks.example import Example
from rrft_jax.tasks.wording import OF_FOUR

PARADIGMS = ("ans_sft", "cot_sft", "reason_rft_zero", "reason_rft")
ZERO_SHOT = "zero_shot"  # for evaluation only, because it has no target to learn
VARIANTS = ("", *dict.fromkeys(v for task in TASKS.values() for v in task.wording.variants))


def _key(task: str, own: str, zero_shot: bool = False) -> str:
    """Return the key of an instruction in a file of `data.prompts`."""
    return ".".join(filter(None, (task, own, ZERO_SHOT if zero_shot else "")))


def _instructions(task: str) -> list[str]:
    """Return the keys of all instructions that a file may replace, of this task and of ours."""
    records: dict[str, Task] = {**TASKS, task: find(task)}
    return [
        _key(name, own, zero_shot)
        for name, record in records.items()
        for zero_shot in (False, True)
        for own in (record.wording.zero_shot if zero_shot else record.wording.instructions)
    ]


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The wording of questions, by default the task's own. `read_prompts` makes a checked one."""

    system: str = ""  # a system prompt; it takes the place of the instruction after the question
    variant: str = ""  # one of VARIANTS
    replaced: Mapping[str, str] = dataclasses.field(default_factory=dict)  # key -> instruction

    def instruction(self, example: Example, paradigm: str) -> str:
        """Return the instruction about the reply, under a paradigm that has one.

        It fits the kind of the answer, or the question alone if the answer is not known ("").

        Raises:
          UserError: the example's task is unknown.
        """
        wording, zero_shot = find(example.task).wording, paradigm == ZERO_SHOT
        own = self.variant
        if not wording.variants:
            own = kind_asked(example.problem, example.answer)
        if own not in wording.instructions:
            own = ""
        for key in (own, wording.nearest.get(own, own)):
            if (replaced := self.replaced.get(_key(example.task, key, zero_shot))) is not None:
                return replaced
        text = (wording.zero_shot if zero_shot else wording.instructions)[own]
        if own == "letter" and not is_of_four(example.problem, example.answer):
            text = text.replace(OF_FOUR, "")
        return text


OWN = Prompts()


def read_prompts(
    task: str,
    paradigm: str,
    *,
    file: str = "",
    system: str = "",
    variant: str = "",
    instruction: str = INSTRUCTION,
) -> Prompts:
    """Return the `Prompts` of a config's `data.prompts`, `data.system_prompt`, `data.variant`.

    `instruction` is that of the task `custom`, the config's `custom.instruction`.

    Raises:
      UserError: the task has no such variant, a field would have no effect beside another, or the
        file can't be read, is no mapping, or holds an unknown key or a value that is no text.
    """
    if variant not in VARIANTS:
        raise UserError(f"data.variant={variant}: expected {', '.join(VARIANTS[1:])}, or nothing")
    wording = find(task).wording
    if variant and variant not in wording.variants:
        having = [name for name, own in TASKS.items() if variant in own.wording.variants]
        raise UserError(f"data.variant={variant}: only {', '.join(having)} has it, not {task}")
    if variant in wording.prefaced and paradigm == ZERO_SHOT:
        raise UserError(
            f"data.variant={variant}: no effect, as {paradigm} asks for the bare answer"
        )
    # Refused, so that no result is taken for an effect of these fields. A variant that only changes
    # the instruction is let through: the tiny model's configs set one under every paradigm.
    reason = "data.system_prompt" if system else paradigm if paradigm == "ans_sft" else ""
    prefaced = variant if variant in wording.prefaced else ""
    for field, value in (("variant", prefaced), ("prompts", file)):
        if reason and value:
            raise UserError(
                f"data.{field}={value}: no effect, as {reason} asks without instruction"
            )
    own = {CUSTOM: instruction} if task == CUSTOM else {}
    return Prompts(system, variant, own | (_read_instructions(file, task) if file else {}))


def _read_instructions(file: str, task: str) -> dict[str, str]:
    where = f"data.prompts={file}"
    texts = read_settings(file, "data.prompts", "file of texts")
    if not isinstance(texts, dict):
        raise UserError(f"{where}: expected a mapping of keys to texts, found {_kind(texts)}")
    known = _instructions(task)
    for key, value in texts.items():
        if key not in known:
            raise UserError(f"{where}: key {key!r}: expected one of {', '.join(known)}")
        if not isinstance(value, str):
            raise UserError(f"{where}: {key}: expected a text, found {_kind(value)}")
    return texts


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def messages(
    example: Example, paradigm: str, prompts: Prompts = OWN
) -> list[dict[str, str | list[dict[str, Any]]]]:
    """Return the chat that asks `example`'s question; pictures stand in place, or in front of it.

    Args:
      example: its pictures appear as placeholders only; the processor is handed them apart.
      paradigm: one of PARADIGMS, or ZERO_SHOT.
      prompts: the wording; by default the project's own.

    Returns:
      The messages, in the form that chat templates of Hugging Face tokenizers take.

    Raises:
      UserError: an instruction repeats a question that has pictures inside it.
    """
    instruction = ""
    asks = _known(paradigm, (*PARADIGMS, ZERO_SHOT), "paradigm") != "ans_sft"
    if asks and not prompts.system:
        instruction = prompts.instruction(example, paradigm)
    return chat(example, instruction, prompts.system)


def chat(
    example: Example, instruction: str = "", system: str = ""
) -> list[dict[str, str | list[dict[str, Any]]]]:
    """Return the chat that asks `example`'s question with one instruction, or with none.

    Args:
      example: the sample, with its own system prompt if it has one.
      instruction: follows the question on a new line, or has it at the place of `{problem}`.
      system: the system prompt in front of the sample's own.

    Raises:
      UserError: the instruction repeats a question that has pictures inside it.
    """
    before = after = ""
    if instruction:
        before, here, after = instruction.partition("{problem}")
        if not here:
            before, after = "", f"\n{instruction}"
        if "{problem}" in after and example.image_offsets:
            raise UserError(
                f"{{problem}} stands more than once in the instruction {instruction!r:.60}, but "
                f"sample {example.id} has pictures inside of its question; use it once"
            )
        after = after.replace("{problem}", example.problem)
    content = _content(example, before, after)
    turns = [{"role": "user", "content": content}]
    if system := "\n\n".join(filter(None, (system, example.system))):
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return turns


def _content(example: Example, before: str, after: str) -> list[dict[str, Any]]:
    """Return the parts of a question, between two texts."""
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
    """Return the reply that a model of this paradigm should give.

    Args:
      example: the sample.
      paradigm: one of PARADIGMS.
      think: whether the reply has the thought; otherwise the thought is empty.
      prompts: how the question is put.

    Raises:
      BadSample: the sample has no answer, the reply has a summary and a caption that this variant
        doesn't ask for, or a tag inside its parts.
    """
    _known(paradigm, PARADIGMS, "paradigm")
    if not example.answer:
        raise BadSample("malformed", "no answer, and SFT teaches answers")
    if paradigm == "ans_sft":
        return example.answer
    thought = (example.cot or "").strip() if think else ""
    prefaced = prompts.variant in find(example.task).wording.prefaced
    if example.preface and not prefaced:
        raise BadSample(
            "malformed", "its reply has a summary and a caption; only data.variant=caption asks so"
        )
    if prefaced and CAPTION_TAG.search(thought + example.answer):
        raise BadSample(
            "malformed", "a tag of a summary or a caption inside of its thought or answer"
        )
    preface = f"{example.preface}\n" if example.preface else ""
    return f"{preface}<think>\n{thought}\n</think>\n<answer>\n{example.answer}\n</answer>"


def _known(name: str, choices: tuple[str, ...], what: str) -> str:
    if name not in choices:
        raise UserError(f"{what} {name!r} is unknown; choose one of {', '.join(choices)}")
    return name
