"""The columns of a row: the usual names of each part of a sample, and the names of the user.

`data.columns` maps a part to a column: {"problem": "caption", "answer": "meta.label"} asks the text
of `caption`, and takes the answer from `label` inside of `meta`. The mapping decides: of a mapped
part no usual name is read any more, and the columns of these names go to `Example.extra`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from rrft_jax.data import media, options
from rrft_jax.errors import UserError

CHATS = ("messages", "conversations", "conversation")  # never a text
QUESTIONS = ("problem", "question", "query", "instruction", "prompt", *CHATS)
ANSWERS = ("answer", "solution", "ground_truth", "response", "output", "completion")
THOUGHTS = (
    *("cot", "reasoning_content", "reasoning", "thought", "thoughts", "thinking", "rationale"),
    *("chain_of_thought", "think"),
)
SYSTEM = ("system", "system_prompt")
# Names that other programs read as a part of the question. They are refused, not ignored.
UNREAD = (
    *("input", "context", "hint", "passage", "history", "tools", "instructions"),
    *("system_message", "user_prompt", "background"),
)

# Part of a sample -> its usual names. The keys of `data.columns` are these parts.
PARTS: Mapping[str, tuple[str, ...]] = {
    "problem": QUESTIONS + UNREAD,
    "image": media.PICTURES + media.FILES,
    "answer": ANSWERS,
    "cot": THOUGHTS,
    "system": SYSTEM,
    "options": options.KEYS + tuple(options.LETTERS),
    "id": ("id",),
    "level": ("level", "type"),
}

_LABELS = ("id", "level")  # parts that name a row, and change nothing about its question


def check(columns: Mapping[str, Any]) -> None:
    """Refuse a `data.columns` that is no mapping of parts to columns.

    Raises:
      UserError: a key is no part of a sample, or a column is no text.
    """
    for part, column in columns.items():
        if part not in PARTS:
            raise UserError(f"columns.{part}: no part of a sample; expected {', '.join(PARTS)}")
        if not isinstance(column, str) or not column:
            raise UserError(f"columns.{part} is {column!r:.60}; expected the name of a column")


def apply(
    record: Mapping[str, Any], columns: Mapping[str, str]
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Return a record with the mapped columns under our names, and its columns that are not read.

    A mapped part that the record lacks is missing from the result too. A column that also labels
    the row, such as the path of a picture that is its id, stays the part that it usually is. If
    the pictures are mapped, no other column is read for pictures.
    """
    if not columns:
        return record, {}
    unread = {name for part in columns for name in PARTS[part]}
    if "image" in columns:
        unread |= {key for key, value in record.items() if media.are_pictures([value])}
    read = {key: value for key, value in record.items() if key not in unread}
    others = {key: value for key, value in record.items() if key in unread}
    usual = {name for part, names in PARTS.items() if part not in columns for name in names}
    for part, column in columns.items():
        found = look_up(record, column)
        others.pop(column, None)
        if part not in _LABELS or column not in usual:
            read.pop(column, None)
        if found:
            read[part] = found[0]
    return read, others


def look_up(record: Mapping[str, Any], column: str) -> list[Any]:
    """Return the value of a column in a list; "a.b" may be `b` inside of `a`. Empty if missing."""
    if column in record:
        return [record[column]]
    first, dot, rest = column.partition(".")
    inner = record.get(first)
    return look_up(inner, rest) if dot and isinstance(inner, Mapping) else []


def check_found(columns: Mapping[str, str], records: Iterable[Any]) -> None:
    """Refuse a column that none of the records has.

    Raises:
      UserError: there is no such column; the message lists those that exist.
    """
    missing, held = dict(columns), {}
    for record in records:
        if isinstance(record, Mapping):
            held |= dict.fromkeys(record)
            inner = {key: value for key, value in record.items() if isinstance(value, Mapping)}
            held |= {f"{key}.{name}": None for key, value in inner.items() for name in value}
            missing = {part: name for part, name in missing.items() if not look_up(record, name)}
        if not missing:
            return
    for part, column in missing.items():
        raise UserError(
            f"data.columns.{part}={column}: no row has this column; expected one of "
            f"{', '.join(held) or 'none: there are no rows'}"
        )
