"""The tables of a study, for the console and for `table.md`."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from rrft_jax.evaluation import paper
from rrft_jax.markdown import aligned
from rrft_jax.study.cost import Cost
from rrft_jax.study.outcome import END, FIRST_STAGE, START, Mean, Outcome, accuracies, differences

_NOTE = (
    "± standard error over seeds; none of a single seed. A difference compares the same held-out "
    "samples under the same seed. Seen are the training samples of all steps. Training FLOPs count "
    "the matrix products of sampling, of the reference and of updates, without evaluations."
)
_ROWS = {START: "{}, before training", FIRST_STAGE: "{}, after SFT", END: "{}"}


def table(cells: Sequence[Outcome]) -> str:
    """Return the outcome of a study in Markdown: for each task, accuracies and differences."""
    parts = []
    for task, own in itertools.groupby(cells, key=lambda cell: cell.key[0]):
        every = list(own)
        parts += [f"## {task}", "\n".join(_accuracies(every))]
        if rows := _differences(every):
            parts.append("\n".join(rows))
        if rows := _paper(every):
            parts += ["\n".join(rows)]
    return "\n\n".join([*parts, _NOTE])


def percent(mean: Mean, signed: bool = False) -> str:
    """Return a mean in percent, such as "52.1 ± 1.3"; without an error if there is none."""
    value = f"{100 * mean.mean:{'+' if signed else ''}.1f}"
    error = mean.standard_error
    return value if error is None else f"{value} ± {100 * error:.1f}"


def flops(value: float) -> str:
    """Return a number of operations, such as "3.2e14"."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _splits(cells: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(split for cell in cells for split in cell.splits))


def _accuracies(cells: Sequence[Outcome]) -> list[str]:
    splits, rows = _splits(cells), {}
    for one in accuracies(cells):
        # The base is the same at every number of samples.
        samples = 0 if one.row == START else one.samples
        key = samples, _ROWS[one.row].format(one.paradigm)
        row = rows.setdefault(key, (one, {}))
        row[1].setdefault(one.split, one.accuracy)
    lines = []
    for (samples, name), (one, by_split) in sorted(rows.items(), key=lambda item: item[0][0]):
        if one.row == START:  # a greedy base says the same under every seed
            by_split = {split: Mean(mean.mean, None, 1) for split, mean in by_split.items()}
        seeds = "" if one.row == START else str(max(own.seeds for own in by_split.values()))
        cost = _cost(cells, one.samples, one.paradigm) if one.row == END else ["", "", ""]
        accuracy = [percent(by_split[split]) if split in by_split else "–" for split in splits]
        lines.append([name, f"{samples:,}", *accuracy, seeds, *cost])
    head = ["accuracy, %", "samples", *splits, "seeds", "seen", "completions", "training FLOPs"]
    return aligned([head, *lines])


def _cost(cells: Sequence[Outcome], samples: int, paradigm: str) -> list[str]:
    """Return the mean cost over seeds, as cells of a row."""
    found: list[Cost] = [
        cell.cost for cell in cells if cell.key[1:3] == (samples, paradigm) and cell.cost
    ]
    if not found:
        return ["–", "–", "–"]
    mean = math.fsum(own.flops for own in found) / len(found)
    return [f"{found[0].samples_seen:,}", f"{found[0].completions:,}", flops(mean)]


def _differences(cells: Sequence[Outcome]) -> list[str]:
    splits = _splits(cells)
    rows: dict[tuple[int, str, str], dict[str, Mean]] = {}
    for one in differences(cells):
        rows.setdefault((one.samples, one.paradigm, one.over), {})[one.split] = one.gain
    lines = [
        [
            f"{paradigm} over {over}",
            f"{samples:,}",
            *(percent(by_split[split], True) if split in by_split else "–" for split in splits),
            str(max(mean.seeds for mean in by_split.values())),
        ]
        for (samples, paradigm, over), by_split in rows.items()
    ]
    return aligned([["difference, points", "samples", *splits, "seeds"], *lines]) if lines else []


def _paper(cells: Sequence[Outcome]) -> list[str]:
    """Return the paper's rows, if the data and the model may be the paper's."""
    config = cells[0].config
    if not (config.data.path or config.data.source):
        return []
    splits = _splits(cells)
    rows: Mapping[str, Mapping[str, str]] = paper.cells(config.model.name, config.task, splits)
    lines = [[name, *(row.get(split, "–") for split in splits)] for name, row in rows.items()]
    if not lines:
        return []
    return [*aligned([["accuracy, %, all samples", *splits], *lines]), *_paper_note(lines)]


def _paper_note(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    if any("(" in cell for line in lines for cell in line):
        yield ""
        yield paper.NOTE
