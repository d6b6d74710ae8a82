"""Answers that are JSON lists or objects: equal if their values are, however they are spelled.

[10,10,60,60] and [10, 10, 60.0, 60];  {"a": 1, "b": 2} and {"b": 2, "a": 1}
"""

import json
import re

_FENCE = re.compile(r"```(?:json)?\s([^`]*)```")  # as models often write JSON


def read(text: str) -> str | None:
    """Return the one spelling of a JSON list or object; None for any other text.

    The text may be hostile: this takes linear time and raises nothing.
    """
    text = text.strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1].strip()
    if not text.startswith(("[", "{")):
        return None
    try:
        return json.dumps(json.loads(text, parse_float=_number), sort_keys=True)
    except (ValueError, RecursionError, TypeError):
        return None


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value
