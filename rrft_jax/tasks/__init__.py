"""The tasks, one file each. A new task is one more file, and one more line in `FILES`.

Everything that differs between tasks is a field of their record, so no code outside this package
names a task. Importing the tasks brings no JAX along.

A task need not live here. `find` also knows `custom`, whose words stand in the config, and any
module of the user's own with a `TASK`, by its dotted path. The name of a task is all that configs,
samples and predictions hold of it, so every process finds the same record.
"""

import functools
import importlib
import importlib.util

from rrft_jax.errors import UserError
from rrft_jax.rewards.worker import find as find_object
from rrft_jax.tasks import custom
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


CUSTOM = custom.TASK.name


def find(name: str) -> Task:
    """Return the record of a task.

    Args:
      name: one of TASKS, CUSTOM, or the dotted path of a module with a `TASK`.

    Raises:
      UserError: no task has this name; the message lists those that exist.
    """
    if name in TASKS:
        return TASKS[name]
    if name == CUSTOM:
        return custom.TASK
    expected = f"choose one of {', '.join(TASKS)}, {CUSTOM}, or the dotted path of a module"
    if not name or "." not in name and importlib.util.find_spec(name) is None:
        raise UserError(f"task {name!r} is unknown; {expected} of your own that has a TASK")
    return _of_own(name)


@functools.cache
def _of_own(path: str) -> Task:
    """Return the `TASK` of a user's module."""
    try:
        task = find_object(f"{path}.TASK")
    except Exception as error:  # an import runs the module, which may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"task {path!r}: {reason:.300}; expected the dotted path of a module with a TASK, "
            "in the current folder or on PYTHONPATH"
        ) from None
    if not isinstance(task, Task):
        raise UserError(
            f"task {path!r}: its TASK is {type(task).__name__}; expected a rrft_jax.tasks.Task"
        )
    return task


__all__ = [
    "CUSTOM",
    "SPLITS",
    "TASKS",
    "Drawing",
    "Example",
    "PaperResults",
    "Task",
    "Wording",
    "find",
]
