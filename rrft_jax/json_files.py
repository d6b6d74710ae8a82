"""JSON files: whole writes, and reads that tolerate the traces of crashes and of other tools.

This file imports nothing of the project, so that every package can use it.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any


def replace(file: pathlib.Path, content: bytes) -> None:
    """Replace a file's content at once: a reader sees the old content or the new one."""
    beside = file.with_name(file.name + ".new")
    beside.write_bytes(content)
    beside.replace(file)


def read_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a text holds; an empty one if it holds anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def is_number(value: Any) -> bool:
    """Say whether a value from JSON is a finite number; true and false are not numbers."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def unique_ids(ids: Sequence[str | None]) -> list[str | None]:
    """Make ids unique: add "#" and the row's index to each id that repeats an earlier one.

    Args:
      ids: the ids of rows, in the order of their file; None, for a row without an id, stays None.
    """
    known, seen, unique = set(ids), set(), []
    for index, own in enumerate(ids):
        name = own
        while name is not None and (name in seen or (name != own and name in known)):
            name = f"{name}#{index}"
        seen.add(name)
        unique.append(name)
    return unique
