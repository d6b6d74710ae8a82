"""Tasks whose pictures are drawn when asked for: sources of any length, with exact answers."""

import dataclasses

from rrft_jax.data.drawn import counting
from rrft_jax.data.example import Example
from rrft_jax.errors import UserError

TASKS = {counting.TASK: counting}
IMAGE_SIZE = 112  # pixels: what the tiny base has seen


def splits(task: str) -> tuple[str, ...]:
    """The held-out splits of a drawn task."""
    return tuple(split for split in TASKS[task].SPLITS if split != "train")


@dataclasses.dataclass(frozen=True)
class DrawnSource:
    """Samples `start` to `stop` of one split of a drawn task; draws the one that is asked for."""

    task: str
    split: str
    seed: int
    start: int
    stop: int
    image_size: int

    def __post_init__(self):
        if self.task not in TASKS:
            raise UserError(
                f"task {self.task!r} has no drawn pictures (drawn: {', '.join(TASKS)}); "
                "give data.path a folder or a file of samples"
            )

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        module = TASKS[self.task]
        return module.sample(self.split, self.seed, self.start + index, self.image_size)
