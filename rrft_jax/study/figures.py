"""The figures of a study as data, which `drawing.py` draws to files, and `page.py` in a browser."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence

from rrft_jax.json_files import is_number
from rrft_jax.report.run import Run, json_lines, read_metrics
from rrft_jax.rewards.format import extract_thought
from rrft_jax.study.outcome import END, Accuracy, Mean, Outcome, accuracies

_POINTS = 60  # of a curve; the steps between two of them are averaged
_REWARD = "reward_"
_NO_REWARD = ("_std", "_failures")
LENGTH = "completion length, tokens"
THOUGHTS = "answers with a thought, %"


@dataclasses.dataclass(frozen=True)
class Line:
    """A series, with the ends of its band; `x` may be numbers, or names of groups of bars."""

    name: str
    x: list
    y: list[float]
    low: list[float]
    high: list[float]


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
      title: the text above it.
      axis: the name of the axis below.
      lines: the series.
      kind: "log" for lines over a logarithmic axis, "linear", or "bars".
    """

    title: str
    axis: str
    lines: list[Line]
    kind: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """Panels that stand side by side; `name` is that of its file."""

    name: str
    title: str
    panels: list[Panel]


def figures(cells: Sequence[Outcome]) -> list[Figure]:
    """Return the figures of a study."""
    tasks = [(task, list(own)) for task, own in itertools.groupby(cells, lambda c: c.key[0])]
    found = [_by_samples(task, own) for task, own in tasks]
    found.append(_bars(cells))
    found += filter(None, (_dynamics(task, own) for task, own in tasks))
    return found


def _by_samples(task: str, cells: Sequence[Outcome]) -> Figure:
    """Return accuracy against the number of training samples, a panel per split."""
    splits = list(dict.fromkeys(split for cell in cells for split in cell.splits))
    ends = [one for one in accuracies(cells) if one.row == END]
    panels = []
    for split in splits:
        lines = [
            _line(paradigm, [(one.samples, one.accuracy) for one in own])
            for paradigm, own in _by_paradigm([one for one in ends if one.split == split])
        ]
        panels.append(Panel(f"{split}, accuracy, %", "training samples", lines, "log"))
    return Figure(f"accuracy-{task}", f"{task}: accuracy by number of training samples", panels)


def _bars(cells: Sequence[Outcome]) -> Figure:
    """Return the accuracies at each task's largest number of samples, a group per split."""
    ends = [one for one in accuracies(cells) if one.row == END]
    most = {task: max(one.samples for one in ends if one.task == task) for task in _tasks(ends)}
    shown = [one for one in ends if one.samples == most[one.task]]
    lines = [
        _line(paradigm, [(f"{one.task}, {one.split}", one.accuracy) for one in own])
        for paradigm, own in _by_paradigm(shown)
    ]
    said = ", ".join(f"{number:,} of {task}" for task, number in most.items())
    return Figure("bars", f"training samples: {said}", [Panel("accuracy, %", "", lines, "bars")])


def _dynamics(task: str, cells: Sequence[Outcome]) -> Figure | None:
    """Return the course of GRPO at the largest number of samples, a panel per measure."""
    trained = [cell for cell in cells if "grpo" in cell.config.stages]
    if not trained:
        return None
    most = max(cell.key[1] for cell in trained)
    by_paradigm: dict[str, list[dict[str, dict[int, float]]]] = {}
    for cell in trained:
        if cell.key[1] == most:
            by_paradigm.setdefault(cell.key[2], []).append(_measures(cell))
    names = dict.fromkeys(n for seeds in by_paradigm.values() for seed in seeds for n in seed)
    panels = []
    for name in names:
        lines = [
            _course(paradigm, [seed[name] for seed in seeds if name in seed])
            for paradigm, seeds in by_paradigm.items()
        ]
        panels.append(Panel(name, "step of GRPO", [line for line in lines if line.x], "linear"))
    return Figure(f"dynamics-{task}", f"{task}, GRPO with {most:,} samples", panels)


def _measures(cell: Outcome) -> dict[str, dict[int, float]]:
    """Return measure -> step -> value: rewards by name, lengths, thoughts, held-out accuracy."""
    found: dict[str, dict[int, float]] = {}
    for line in read_metrics(cell.folder).get("grpo", ()):
        for key, value in line.items():
            reward = key.startswith(_REWARD) and not key.endswith(_NO_REWARD)
            if is_number(value) and (reward or key == "completion_length"):
                name = f"reward: {key.removeprefix(_REWARD)}" if reward else LENGTH
                found.setdefault(name, {})[line["step"]] = value
    thoughts: dict[int, list[bool]] = {}
    for row in json_lines(cell.folder / "rollouts.jsonl"):
        if row.get("stage") == "grpo":
            has_thought = bool(extract_thought(row.get("completion", "")))
            thoughts.setdefault(row["step"], []).append(has_thought)
    if thoughts:
        found[THOUGHTS] = {step: 100 * statistics.fmean(own) for step, own in thoughts.items()}
    return found | _held_out(cell)


def _held_out(cell: Outcome) -> dict[str, dict[int, float]]:
    """Return the accuracy of held-out splits over the steps, if it was evaluated between them."""
    run, found = Run.read(cell.folder), {}
    before = "sft" if "sft" in cell.config.stages else "start"
    steps = {before: 0, "grpo": run.done("grpo")}
    if not any(name.startswith("grpo@") for name in run.results.rows):
        return {}
    for name, row in run.results.rows.items():
        stage, _, number = name.partition("@")
        step = int(number) if number and stage == "grpo" else steps.get(name)
        for split, entry in row.items() if step is not None else ():
            if "accuracy" in entry:
                title = f"{split}, accuracy, %"
                found.setdefault(title, {})[step] = 100 * entry["accuracy"]
    return {title: dict(sorted(own.items())) for title, own in found.items()}


def _line(name: str, points: Sequence[tuple[int | str, Mean]]) -> Line:
    """Return accuracies in percent, with a band of a standard error to each side."""
    means = [100 * one.mean for _, one in points]
    errors = [100 * (one.standard_error or 0.0) for _, one in points]
    low = [mean - error for mean, error in zip(means, errors)]
    high = [mean + error for mean, error in zip(means, errors)]
    return Line(name, [x for x, _ in points], means, low, high)


def _course(name: str, seeds: Sequence[Mapping[int, float]]) -> Line:
    """Return the mean of several seeds over their steps, with a band from the least to the most."""
    steps = sorted({step for seed in seeds for step in seed})
    size = -(-len(steps) // _POINTS) if steps else 1
    line = Line(name, [], [], [], [])
    for chunk in (steps[first : first + size] for first in range(0, len(steps), size)):
        own = [[seed[step] for step in chunk if step in seed] for seed in seeds]
        means = [statistics.fmean(values) for values in own if values]
        line.x.append(chunk[-1])
        line.y.append(statistics.fmean(means))
        line.low.append(min(means))
        line.high.append(max(means))
    return line


def _by_paradigm(ends: Sequence[Accuracy]) -> list[tuple[str, list[Accuracy]]]:
    names = dict.fromkeys(one.paradigm for one in ends)
    return [(name, [one for one in ends if one.paradigm == name]) for name in names]


def _tasks(ends: Sequence[Accuracy]) -> list[str]:
    return list(dict.fromkeys(one.task for one in ends))
