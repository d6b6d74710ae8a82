"""Samples that a task draws when asked for: data sets of any length, with exact answers."""

import dataclasses

from rrft_jax.errors import UserError
from rrft_jax.tasks import Example, find

TINY_SIZE = 112  # pixels on a side; the tiny base has seen this size
SIZE = 480  # pixels on a side for other models


@dataclasses.dataclass(frozen=True)
class DrawnSource:
    """Samples `start` to `stop` of one split of a task, each drawn on demand."""

    task: str
    split: str
    seed: int
    start: int
    stop: int
    image_size: int

    def __post_init__(self):
        if find(self.task).sample is None:
            raise UserError(
                f"task {self.task} draws no samples; give a data set by data.path or data.source"
            )

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int | slice) -> "Example | DrawnSource":
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            stop = self.start + max(start, stop)
            return dataclasses.replace(self, start=self.start + start, stop=stop)
        if not 0 <= index < len(self):
            raise IndexError(index)
        sample = find(self.task).sample
        drawn = sample(self.split, self.seed, self.start + index, self.image_size)
        # A task of the user's own is found by its dotted path, and may be called otherwise.
        return dataclasses.replace(drawn, task=self.task)
