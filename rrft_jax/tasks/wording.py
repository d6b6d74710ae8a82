"""`Wording`: the instructions of a task, and the templates that most of them are made from."""

import dataclasses
from collections.abc import Mapping

# Short, because the smallest models read it with every question.
BRIEF = (
    "Think inside <think> </think>, then give the final answer, {kind}, inside <answer> </answer>."
)
BARE = "Give the final answer alone, {kind}, without any explanation."

OF_FOUR = " (A, B, C or D)"  # left out of a question with other options
LETTER, LETTERS = f"the letter of an option{OF_FOUR}", "the letters of one or more options"
WORD = "a word or a few words"


@dataclasses.dataclass(frozen=True)
class Wording:
    """The instructions that follow a task's questions.

    An instruction is chosen by a key: the config's `data.variant` if the task has variants, else
    the kind of the answer ("letter", "letters", "value" or "word"). The key "" serves all keys
    without their own text. The options of a question are printed below it, so an instruction that
    asks for a letter gives nothing of the answer away.

    Attributes:
      instructions: key -> the text for a model that is to think first.
      zero_shot: key -> the text for a model that has learnt neither to think nor the tags.
      nearest: key -> the key whose text in a file of `data.prompts` also serves this one.
      variants: the values of `data.variant` that this task has, beside "".
      prefaced: the variants that ask for a <summary> and a <caption> before the thought.
    """

    instructions: Mapping[str, str]
    zero_shot: Mapping[str, str]
    nearest: Mapping[str, str] = dataclasses.field(default_factory=dict)
    variants: tuple[str, ...] = ()
    prefaced: tuple[str, ...] = ()

    @classmethod
    def of_kinds(
        cls, kinds: Mapping[str, str], nearest: Mapping[str, str] | None = None
    ) -> "Wording":
        """Make the short instructions that name nothing but the kind of the answer.

        Args:
          kinds: key -> the kind in words, such as {"": "a number"}.
          nearest: the same as the attribute.
        """
        return cls(
            instructions={key: BRIEF.format(kind=kind) for key, kind in kinds.items()},
            zero_shot={key: BARE.format(kind=kind) for key, kind in kinds.items()},
            nearest=nearest or {},
        )
