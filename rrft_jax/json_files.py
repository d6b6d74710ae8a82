"""JSON in files: written whole or not at all, read with what crashes and other tools leave in it.

Imports nothing of the project, so that every package can use it.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any


def replace(file: pathlib.Path, content: bytes) -> None:
    """Give a file new content; at no moment does it hold half of it."""
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
    """Tell whether JSON meant a number: not true, and not the NaN that stands for nothing."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def unique_ids(ids: Sequence[str | None]) -> list[str | None]:
    """Return the ids with "#" and its index added to each that repeats an earlier one.

    Args:
      ids: of rows, in the order of their file; None for a row without one, which stays None.
    """
    known, seen, unique = set(ids), set(), []
    for index, own in enumerate(ids):
        name = own
        while name is not None and (name in seen or (name != own and name in known)):
            name = f"{name}#{index}"
        seen.add(name)
        unique.append(name)
    return unique
