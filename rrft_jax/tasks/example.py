"""`Example`: one question about pictures, from any source."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A picture of a known size that is drawn when it is opened; its question costs no drawing."""

    size: tuple[int, int]  # pixels: width and height
    draw: Callable[[], Image.Image]


@dataclasses.dataclass(frozen=True)
class Example:
    """One sample of a task.

    A data set is anything with `__len__` and `__getitem__` that yields examples: a list that was
    read from a file, or an object that draws the example it is asked for.

    A picture may stand inside the question. `problem` is then the text without placeholders, and
    `image_offsets` says where each picture belongs, so that no text can be mistaken for a picture.
    """

    id: str
    images: tuple[Any, ...]  # pictures for `open_image`, in the order of the question
    problem: str
    answer: str  # empty if the row has none, which some tasks allow
    cot: str | None  # the worked-out chain of thought, if the data set has one
    task: str  # a name in tasks.TASKS
    part: str = ""  # the part of its split that its row in a file names: "level 2", "type both"
    # The place of each picture in characters of the problem; empty if all stand before it.
    image_offsets: tuple[int, ...] = ()
    system: str = ""  # the row's own system prompt
    preface: str = ""  # the <summary> and <caption> blocks that its reply begins with
    # The other columns of its row, as JSON values, for rewards. No picture is among them.
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    @property
    def question(self) -> str:
        """The problem for people, with `<image>` where a picture stands inside it."""
        ends = (*self.image_offsets, len(self.problem))
        starts = (0, *self.image_offsets) if self.image_offsets else (0,)
        return "<image>".join(self.problem[a:b] for a, b in zip(starts, ends))
