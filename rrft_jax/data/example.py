"""`Example`: one question about pictures, whatever it came from; `Source`: a data set of them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A picture of a known size that is drawn when it is opened: its question comes for nothing."""

    size: tuple[int, int]  # pixels: width and height
    draw: Callable[[], Image.Image]


@dataclasses.dataclass(frozen=True)
class Example:
    """One sample of a task.

    A data set is anything with `__len__` and `__getitem__` that yields these: a list that was read
    from a file, or an object that makes them up when asked for them.

    A picture may stand inside of the question. `problem` is then the text without a placeholder,
    and `image_offsets` says where each picture belongs, so that no text can be taken for one.
    """

    id: str
    images: tuple[Any, ...]  # whatever `open_image` opens, in the order of the question
    problem: str
    answer: str
    cot: str | None  # the worked-out thought, where the data set has one
    task: str  # one of prompts.TASKS
    part: str = ""  # of its split, as its row in a file tells it: "level 2", "type both"
    # Of each picture, in characters of the problem; none: all pictures stand before it.
    image_offsets: tuple[int, ...] = ()
    system: str = ""  # the row's own system prompt
    preface: str = ""  # its <summary> and <caption> blocks, which a reply may begin with

    @property
    def question(self) -> str:
        """The problem for people: `<image>` where a picture stands inside of it."""
        ends = (*self.image_offsets, len(self.problem))
        starts = (0, *self.image_offsets) if self.image_offsets else (0,)
        return "<image>".join(self.problem[a:b] for a, b in zip(starts, ends))


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set, and how it takes part in training: its words, its rewards, its share."""

    examples: Sequence[Example]
    prompts: Any = None  # a prompts.Prompts; None asks in the project's own words
    rewards: Mapping[str, float] | None = None  # name -> weight; None takes those of the config
    weight: float = 0.0  # its share of the samples, relative to the others'; 0: by its length
