"""Markdown: tables for consoles, and for the pages of `docs/` that are written from the code."""

from collections.abc import Iterable, Sequence


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a Markdown table, head first; right-align all but the `left` columns."""
    widths = [max(3, *map(len, column)) for column in zip(*rows)]
    lines = []
    for cells in rows:
        padded = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths))
        ]
        lines.append(f"| {' | '.join(padded)} |")
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [lines[0], f"| {' | '.join(rule)} |", *lines[1:]]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are as long as their texts."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: object) -> str:
    """Return a value as Python writes it, in the type of code."""
    return f"`{value!r}`".replace("'", '"')
