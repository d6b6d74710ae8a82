"""Tables of results that are readable on a console and in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from rrft_jax.evaluation import paper
from rrft_jax.evaluation.rewarding import REWARD
from rrft_jax.markdown import aligned

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def results_table(results: Results, reported: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """Return Markdown for {stage: {split: {"accuracy", "standard_error", "samples", "decoding"}}}.

    The table has one row per stage and one column per split, in their order in `results`. A cell is
    the accuracy in percent with its standard error. If an evaluation had rewards, a second table
    has their means, one row per stage and split. Notes below give each split's decoding and number
    of samples. If the rows of a split differ in their number of samples, it stands in each of them.
    The "skipped" entry of `results.json` is no row.

    Args:
      results: the content of `results.json`.
      reported: the paper's rows, from `paper.cells`. If there are any, each stage has a second row,
        scored by the public code's own rules, as the paper's numbers were.
    """
    results = _evaluations(results)
    splits = list(dict.fromkeys(split for row in results.values() for split in row))
    rows = {}
    for stage, row in results.items():
        scored = {split: entry for split, entry in row.items() if "accuracy" in entry}
        for suffix, note in {"": "", "_reference": ", reference scoring"}.items():
            if reported or not suffix:
                rows[stage + note] = {
                    split: percent(entry, suffix) + _of(entry, split, results)
                    for split, entry in scored.items()
                }
    rows |= reported or {}
    notes: dict[str, list[str]] = {}  # note -> the splits that it applies to
    for split in splits:
        entries = [row[split] for row in results.values() if split in row]
        notes.setdefault(" / ".join(dict.fromkeys(map(_note, entries))), []).append(split)
    said = "; ".join(f"{', '.join(names)}: {note}" for note, names in notes.items())
    lines = [*_table("accuracy, %", splits, rows), ""] if any(rows.values()) else []
    if rewards := _rewards_table(results):
        lines += [*rewards, ""]
    lines.append(f"± standard error. {said}.")
    if any("(" in cell for row in (reported or {}).values() for cell in row.values()):
        lines.append(paper.NOTE)
    return "\n".join(lines)


def reward_columns(entry: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Return the rewards of an entry to show; the weighted sum only if there are several."""
    rewards = dict(entry.get("rewards", {}))
    if len(rewards) == 2:
        rewards.pop(REWARD, None)
    return rewards


def _rewards_table(results: Results) -> list[str]:
    """Return the lines of a table of mean rewards, a row per stage and split; none without any."""
    rows = {
        f"{stage}, {split}{_of(entry, split, results)}": {
            name: decimal(own) for name, own in reward_columns(entry).items()
        }
        for stage, row in results.items()
        for split, entry in row.items()
        if "rewards" in entry
    }
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    return _table("mean reward", names, rows) if rows else []


def parts_table(results: Results) -> str:
    """Return a table of the splits' parts, a row per stage and split; empty without any parts."""
    rows = {
        f"{stage}, {split}": {name: percent(part) for name, part in entry["parts"].items()}
        for stage, row in _evaluations(results).items()
        for split, entry in row.items()
        if "parts" in entry
    }
    parts = sorted({name for row in rows.values() for name in row})
    return "\n".join(_table("accuracy of parts, %", parts, rows)) if rows else ""


def percent(entry: Mapping[str, Any], suffix: str = "") -> str:
    """Return an entry's accuracy with its standard error, such as "50.0 ± 1.2"."""
    return f"{100 * entry['accuracy' + suffix]:.1f} ± {100 * entry['standard_error' + suffix]:.1f}"


def decimal(mean: Mapping[str, float]) -> str:
    """Return a reward's mean with its standard error, such as "0.512 ± 0.013"."""
    return f"{mean['mean']:.3f} ± {mean['standard_error']:.3f}"


def _of(entry: Mapping[str, Any], split: str, results: Results) -> str:
    """Return an entry's number of samples, such as " of 100", if other rows have other samples."""
    sizes = {row[split]["samples"] for row in results.values() if split in row}
    return f" of {entry['samples']:,}" if len(sizes) > 1 else ""


def _evaluations(results: Results) -> dict[str, Mapping[str, Mapping[str, Any]]]:
    return {stage: row for stage, row in results.items() if stage != "skipped"}


def _table(corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    cells = [[name, *(row.get(column, "–") for column in columns)] for name, row in rows.items()]
    return aligned([[corner, *columns], *cells])


def _note(entry: Mapping[str, Any]) -> str:
    passes = f"{entry['passes']} passes" if "passes" in entry else None
    return ", ".join(filter(None, [f"{entry['samples']:,} samples", passes, entry.get("decoding")]))
