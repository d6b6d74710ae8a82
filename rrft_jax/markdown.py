"""Markdown for the pages of `docs/` that are written from the code."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are as long as their texts."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: object) -> str:
    """Return a value as Python writes it, in the type of code."""
    return f"`{value!r}`".replace("'", '"')
