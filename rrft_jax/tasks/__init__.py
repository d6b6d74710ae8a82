"""The tasks, one file each. A new task is one more file, and one more line in `FILES`.

Everything that differs between tasks is a field of their record, so no code outside this package
names a task. Importing the tasks brings no JAX along.
"""

import importlib

from rrft_jax.errors import UserError
from rrft_jax.tasks.example import Drawing, Example
from rrft_jax.tasks.task import PaperResults, Task
from rrft_jax.tasks.wording import Wording

# The files of this folder that hold a `TASK`. The first task is the default of a config.
FILES = (
    "visual_counting",
    "structure_perception",
    "spatial_transformation",
)

# Name -> record.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (importlib.import_module(f"rrft_jax.tasks.{file}").TASK for file in FILES)
}

# The splits of all tasks and of files, in the order in which results list them.
SPLITS = tuple(
    dict.fromkeys(
        ("train", "validation", *(s for task in TASKS.values() for s in task.splits), "test")
    )
)


def find(name: str) -> Task:
    """Return the record of a task.

    Raises:
      UserError: no task has this name; the message lists those that exist.
    """
    if name not in TASKS:
        raise UserError(f"task {name!r} is unknown; choose one of {', '.join(TASKS)}")
    return TASKS[name]


__all__ = [
    "SPLITS",
    "TASKS",
    "Drawing",
    "Example",
    "PaperResults",
    "Task",
    "Wording",
    "find",
]
