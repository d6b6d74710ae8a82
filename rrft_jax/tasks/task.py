"""`Task`: everything that the rest of the package needs to know about one task."""

import dataclasses
from collections.abc import Callable, Collection, Mapping

from rrft_jax.tasks.answers import VALUES, Answers
from rrft_jax.tasks.example import Example
from rrft_jax.tasks.wording import Wording


@dataclasses.dataclass(frozen=True)
class PaperResults:
    """The accuracies that Reason-RFT's paper reports for one task (arXiv 2503.20752).

    Attributes:
      columns: (split, part) of each number in a row; the part is "" if a split has only one.
      rows: model, as `model.name` of a config -> row of the paper -> percent, one number a column.
        The paper trains "2b" and "7b" alone.
      samples: part -> number of its samples, which weight the parts in the mean of their split.
    """

    columns: tuple[tuple[str, str], ...]
    rows: Mapping[str, Mapping[str, tuple[float, ...]]]
    samples: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """One task. A field with a default may be left out.

    Attributes:
      name: its name in configs, files and results, such as "visual_counting".
      wording: the instructions that follow a question.
      rewards: name of a reward -> its weight in the sum, for GRPO.
      sample: (split, seed, index, image_size) -> the drawn example at that place. The same
        arguments give the same example. None if the task has no drawings, only data sets.
      splits: "train", then the held-out splits in the order of the results.
      answers: the form of the answers: reading, checks and scores.
      opening: the tag that counts as the beginning of a reply if the chat template ends the prompt
        with it, as those of Thinking models do. Rewards and answers then read it in front of each
        completion, and SFT leaves it out of its targets. "" counts completions alone.
      parts: answer -> the parts of its split that a prediction is also counted in.
      recognizes: (answer, all answers of its file) -> whether a prediction that names no task
        belongs to this one; None if the task is never guessed.
      reuse_activation: whether GRPO trains on the samples of SFT too, because there are few.
      epochs: passes of GRPO over a data set from files.
      paper: the paper's results, to print beside those of a run.
    """

    name: str
    wording: Wording
    rewards: Mapping[str, float]
    sample: Callable[[str, int, int, int], Example] | None = None
    splits: tuple[str, ...] = ("train", "id", "ood")
    answers: Answers = VALUES
    opening: str = "<think>"
    parts: Callable[[str], tuple[str, ...]] = lambda answer: ()
    recognizes: Callable[[str, Collection[str]], bool] | None = None
    reuse_activation: bool = False
    epochs: int = 1
    paper: PaperResults | None = None

    @property
    def held_out(self) -> tuple[str, ...]:
        """The splits that are evaluated and never trained on."""
        return tuple(split for split in self.splits if split != "train")

    @property
    def title(self) -> str:
        """The name as the files of the published data set spell it: "Visual-Counting"."""
        return self.name.replace("_", "-").title()
