"""Tasks whose pictures are drawn when asked for: sources of any length, with exact answers."""

import dataclasses

from rrft_jax.data.drawn import counting, structure, transformation
from rrft_jax.data.example import Example

TASKS = {module.TASK: module for module in (counting, structure, transformation)}
TINY_SIZE = 112  # pixels on a side: what the tiny base has seen
SIZE = 480  # for models that see more


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

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        module = TASKS[self.task]
        return module.sample(self.split, self.seed, self.start + index, self.image_size)
