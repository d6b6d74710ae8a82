"""Results as tables that read well on a console and in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rrft_jax.evaluation import paper

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def results_table(results: Results, reported: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """`{stage: {split: {"accuracy", "standard_error", "samples", "decoding"}}}` -> Markdown.

    One row a stage, one column a split, in the order in which they appear; accuracy in percent
    with its standard error. Below it, how each split was decoded and on how many samples. What
    training skipped, in `results.json` too, is no row.

    Args:
      results: as `results.json` holds them.
      reported: the paper's rows, as `paper.cells` gives them. With any, each stage has a second row
        scored as the paper's numbers were, by the public code's own rules.
    """
    results = {stage: row for stage, row in results.items() if stage != "skipped"}
    splits = list(dict.fromkeys(split for row in results.values() for split in row))
    rows = {}
    for stage, row in results.items():
        rows[stage] = {split: percent(entry) for split, entry in row.items()}
        if reported:
            rows[f"{stage}, reference scoring"] = {
                split: percent(entry, "_reference") for split, entry in row.items()
            }
    rows |= reported or {}
    notes: dict[str, list[str]] = {}  # what is said of a split -> the splits that it's said of
    for split in splits:
        entries = [row[split] for row in results.values() if split in row]
        notes.setdefault(" / ".join(dict.fromkeys(map(_note, entries))), []).append(split)
    said = "; ".join(f"{', '.join(names)}: {note}" for note, names in notes.items())
    lines = [*_table("accuracy, %", splits, rows), "", f"± standard error. {said}."]
    if any("(" in cell for row in (reported or {}).values() for cell in row.values()):
        lines.append(paper.NOTE)
    return "\n".join(lines)


def parts_table(results: Results) -> str:
    """The parts of the splits, one row a stage and split; empty where no split has parts."""
    rows = {
        f"{stage}, {split}": {name: percent(part) for name, part in entry["parts"].items()}
        for stage, row in results.items()
        if stage != "skipped"
        for split, entry in row.items()
        if "parts" in entry
    }
    parts = sorted({name for row in rows.values() for name in row})
    return "\n".join(_table("accuracy of parts, %", parts, rows)) if rows else ""


def percent(entry: Mapping[str, Any], suffix: str = "") -> str:
    """An entry's accuracy with its standard error, "50.0 ± 1.2"."""
    return f"{100 * entry['accuracy' + suffix]:.1f} ± {100 * entry['standard_error' + suffix]:.1f}"


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """The lines of a Markdown table, its head first; all but `left` columns stand to the right."""
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


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    cells = [[name, *(row.get(column, "–") for column in columns)] for name, row in rows.items()]
    return aligned([[corner, *columns], *cells])


def _note(entry: Mapping[str, Any]) -> str:
    passes = f"{entry['passes']} passes" if "passes" in entry else None
    return ", ".join(filter(None, [f"{entry['samples']:,} samples", passes, entry.get("decoding")]))
