"""Results as a table that reads well on a console and in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any


def results_table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """`{stage: {split: {"accuracy", "standard_error", "samples", "decoding"}}}` -> Markdown.

    One row a stage, one column a split, in the order in which they appear; accuracy in percent
    with its standard error. Below it, how each split was decoded and on how many samples. What
    training skipped, in `results.json` too, is no row.
    """
    results = {stage: row for stage, row in results.items() if stage != "skipped"}
    splits = list(dict.fromkeys(split for row in results.values() for split in row))
    rows = [["accuracy, %", *splits], *([stage] for stage in results)]
    for cells, row in zip(rows[1:], results.values()):
        cells.extend(_cell(row[split]) if split in row else "–" for split in splits)
    notes = []
    for split in splits:
        entries = [row[split] for row in results.values() if split in row]
        notes.append(f"{split}: {' / '.join(dict.fromkeys(map(_note, entries)))}")
    return "\n".join([*_aligned(rows), "", "± standard error. " + "; ".join(notes) + "."])


def _cell(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['accuracy']:.1f} ± {100 * entry['standard_error']:.1f}"


def _note(entry: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, [f"{entry['samples']:,} samples", entry.get("decoding")]))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, first column left, the others right."""
    widths = [max(3, *map(len, column)) for column in zip(*rows)]
    lines = []
    for cells in rows:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
        lines.append(f"| {' | '.join(padded)} |")
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [lines[0], f"| {' | '.join(rule)} |", *lines[1:]]
