"""`Example`: one question about pictures, whatever it came from."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Example:
    """One sample of a task.

    A data set is anything with `__len__` and `__getitem__` that yields these: a list that was read
    from a file, or an object that draws its pictures when asked for them.
    """

    id: str
    images: tuple[Any, ...]  # paths, PIL images, or the BadRow of a refused path; may be none
    problem: str
    answer: str
    cot: str | None  # the worked-out thought, where the data set has one
    task: str  # one of prompts.TASKS
