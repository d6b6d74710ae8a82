"""What a page holds about its runs: a dict that becomes JSON."""

import itertools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from rrft_jax import rewards
from rrft_jax.evaluation import best
from rrft_jax.evaluation.results import shown_name
from rrft_jax.json_files import is_number
from rrft_jax.models.families import title
from rrft_jax.report import printed, samples
from rrft_jax.report.groups import cut, groups
from rrft_jax.report.pictures import Pictures
from rrft_jax.report.run import Run, json_lines
from rrft_jax.report.samples import Evaluation

STEPS = 2_000  # of a stage in a page; of more steps, evenly spaced ones are taken
REASONS = 200  # samples that were left out, with their reasons
_DOES = {
    "sft": "SFT shows the model worked-out thoughts and answers, and it learns to write such ones.",
    "grpo": (
        "GRPO lets the model answer each question several times. Rewards check the answers. "
        "Answers that earn more than the others of their group become more likely."
    ),
}


def content(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the content of a page about one run or several.

    Returns:
      {"runs": what each run is and measured, "splits": what they said to held-out samples,
      "pictures": see `Pictures.files`, "examples": samples for the first screen}.
    """
    pictures, names = Pictures(), _names([run.folder for run in runs])
    splits = _splits(runs, pictures)
    return {
        "runs": [_about(run, name, pictures) for run, name in zip(runs, names)],
        "splits": splits,
        "examples": _examples(runs[0], splits),
        "pictures": pictures.files,
    }


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
    """Return a short name of each folder: its last part, or the whole path if two are alike."""
    short = [folder.resolve().name for folder in folders]
    return [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, folders)]


def _about(run: Run, name: str, pictures: Pictures) -> dict[str, Any]:
    config, rows = run.config, _rows(run)
    model = config.model.path.rstrip("/") or title(config.model.name)
    if not config.model.path and config.model.name == "tiny":
        model = "the packaged small model"
    facts = {
        "task": config.task,
        "model": model,
        "data": config.data.path or config.data.source or config.data.mixture or "drawn",
        "paradigm": config.paradigm,
        "seed": str(config.seed),
    }
    if config.model.adapter:
        facts["adapter"] = config.model.adapter
    if config.lora.rank and config.stages:
        facts["tuning"] = f"LoRA of rank {config.lora.rank}, alpha {config.lora.alpha:g}"
    if config.grpo and "grpo" in config.stages:
        terms = rewards.read_terms(config.grpo.rewards)
        facts["rewards"] = ", ".join(f"{term.name} x {term.weight:g}" for term in terms)
    return {
        "name": name,
        "facts": facts,
        "stages": [
            {"name": stage, "done": run.done(stage), "steps": steps, "does": _DOES[stage]}
            for stage, steps in run.results.steps.items()
        ],
        "curves": _curves(run),
        "headline": _headline(run, rows),
        "rows": [
            {"row": row, "name": shown, "splits": run.results.rows[row]}
            for row, shown in rows.items()
        ],
        "trend": printed.trend(run.rewards),
        "groups": groups(run, pictures),
        "skipped": _skipped(run),
    }


def _rows(run: Run) -> dict[str, str]:
    """Return the rows of the run's last table, by their names in `results.json`."""
    found, better = {}, run.results.better_steps()
    for name in best.final_rows(run.results.rows, {}):
        if stage_step := better.get(name):
            found[f"{name}@{stage_step}"] = f"{name}@{stage_step}, best"
        found[name] = shown_name(run.config, name)
    return found


def _curves(run: Run) -> dict[str, dict[str, list[float | None]]]:
    """Return stage -> metric -> its value at each step; and the held-out splits' as a stage.

    Every stage has "step" and "minutes", which are summed up over the steps of the stage.
    """
    curves, clock = {}, {"start": (0, 0.0)}
    for stage, lines in run.metrics.items():
        names = dict.fromkeys(name for line in lines for name in line)
        columns: dict[str, list[float | None]] = {
            name: [value if is_number(value := line.get(name)) else None for line in lines]
            for name in names
            if name != "stage"
        }
        unknown = [0.0] * len(lines)
        seconds = itertools.accumulate(v or 0.0 for v in columns.get("seconds_step", unknown))
        columns["minutes"] = [round(value / 60, 4) for value in seconds]
        before = max(clock.values())
        for step, minutes in zip(columns["step"], columns["minutes"]):
            clock[f"{stage}@{step}"] = clock[stage] = before[0] + step, before[1] + minutes
        stride = -(-len(lines) // STEPS)
        last = (len(lines) - 1) % stride
        curves[stage] = {
            name: [_short(value) for value in values[last::stride]]
            for name, values in columns.items()
            if any(value is not None for value in values)
        }
    return curves | _held_out(run, clock)


def _held_out(run: Run, clock: dict[str, tuple[int, float]]) -> dict[str, Any]:
    """Return the accuracies over the steps of all stages together, with their standard errors."""
    rows = run.results.rows.items()
    at = [(clock[name], row) for name, row in rows if name in clock and row]
    at.sort(key=lambda one: one[0])  # rows of one moment stay in their order
    if len(at) < 2:
        return {}
    found: dict[str, list[float | None]] = {
        "step": [step for (step, _), _ in at],
        "minutes": [minutes for (_, minutes), _ in at],
    }
    for split in dict.fromkeys(split for _, row in at for split in row):
        entries = [row.get(split, {}) for _, row in at]
        for suffix, sign in (("", 0), (" low", -1), (" high", 1)):
            found[f"accuracy, {split}{suffix}"] = [
                _short(entry["accuracy"] + sign * entry["standard_error"])
                if "accuracy" in entry
                else None
                for entry in entries
            ]
    return {"held out": found}


def _headline(run: Run, rows: dict[str, str]) -> dict[str, Any]:
    """Return the measure that decides, at the start and after each stage, and the gains."""
    split, results = run.results.deciding, run.results
    values, gains = [], []
    for name, shown in rows.items():
        entry = results.rows[name].get(split, {})
        value = best.measure(entry, results.metric)
        if value is None:
            continue
        accuracy = results.metric == "accuracy" or (not results.metric and "accuracy" in entry)
        own = entry if accuracy else entry["rewards"][results.metric or "reward"]
        values.append(
            {"name": shown, "row": name, "value": value, "error": own["standard_error"],
             "samples": entry["samples"], "percent": accuracy}
        )  # fmt: skip
    ends = [value for value in values if "@" not in value["row"]]
    for before, after in itertools.pairwise(ends):
        if not (before["percent"] and after["percent"]):
            continue
        old, new = (_evaluation(run, end["row"], split).scores for end in (before, after))
        if found := printed.paired(old, new):
            gain, error, _ = found
            gains.append(
                {"from": before["name"], "to": after["name"], "gain": gain, "error": error}
            )
    return {"split": split, "values": values, "gains": gains}


def _splits(runs: Sequence[Run], pictures: Pictures) -> dict[str, dict[str, Any]]:
    """Return split -> {"samples": those that are shown, "number": of all, "evaluations": [...]}.

    Every evaluation has "worth" for all samples, in one order, and "said" for those that are
    shown; None for a sample that it doesn't have.
    """
    found: dict[str, list[tuple[int, str, Evaluation]]] = {}
    for number, run in enumerate(runs):
        for row, shown in _rows(run).items():
            for split in run.results.rows[row]:
                if run.results.predictions(row, split).exists():
                    evaluation = _evaluation(run, row, split)
                    found.setdefault(split, []).append((number, shown, evaluation))
    splits = {}
    for split, evaluations in found.items():
        texts: dict[samples.Sample, tuple[int, dict[str, Any]]] = {}
        every = dict.fromkeys(sample for *_, own in evaluations for sample in own.worth)
        for number, _, own in evaluations:
            for sample, text in own.samples.items():
                if not texts.get(sample, (0, {}))[1].get("pictures"):
                    texts[sample] = number, text
        order = [*texts, *(sample for sample in every if sample not in texts)]
        splits[split] = {
            "number": len(order),
            "samples": [
                {"id": cut(name, 200), "answer": cut(answer), "problem": text["problem"],
                 "pictures": pictures.add(runs[number].folder, text["pictures"])}
                for (name, answer), (number, text) in texts.items()
            ],
            "evaluations": [
                {"run": number, "row": shown, "answers": own.answers,
                 "worth": [_short(own.worth.get(sample)) for sample in order],
                 "said": [own.said.get(sample) for sample in texts]}
                for number, shown, own in evaluations
            ],
        }  # fmt: skip
    return splits


def _examples(run: Run, splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return samples of the deciding split for the first screen: two that the last row solves and
    the first one doesn't, and one that it doesn't solve; fewer if there are none."""
    split = splits.get(run.results.deciding)
    own = [n for n, one in enumerate(split["evaluations"]) if one["run"] == 0] if split else []
    if not own:
        return {}
    before, after = (split["evaluations"][n] for n in (own[0], own[-1]))
    both = [
        n
        for n in range(len(split["samples"]))
        if before["said"][n] is not None and after["said"][n] is not None
    ]
    solved = [n for n in both if after["worth"][n] > before["worth"][n]]
    failed = [n for n in both if after["worth"][n] < 1]
    failed.sort(key=lambda n: before["worth"][n])
    chosen = dict.fromkeys([*solved[:2], *failed[:1], *both[:3]])
    return {
        "split": run.results.deciding,
        "before": own[0],
        "after": own[-1],
        "samples": list(chosen)[:3],
    }


def _skipped(run: Run) -> dict[str, Any]:
    """Return what was left out: counts by cause, and some of the reasons."""
    stages = dict(run.results.rows.get("skipped", {}))
    for name, row in run.results.rows.items():
        for split, entry in row.items() if name != "skipped" else ():
            if "skipped" in entry and split not in stages:
                seen = entry["samples"] + sum(entry["skipped"].values())
                stages[split] = {"seen": seen, "causes": entry["skipped"]}
    lines = json_lines(run.folder / "skipped.jsonl")
    return {
        "counts": [
            {"where": where, "seen": entry["seen"], "cause": cause, "number": number}
            for where, entry in stages.items()
            for cause, number in entry["causes"].items()
        ],
        "reasons": [
            [cut(line.get(key), 1_000) for key in ("where", "cause", "reason")]
            for line in lines[:REASONS]
        ],
        "number": len(lines),
    }


def _evaluation(run: Run, row: str, split: str) -> Evaluation:
    return samples.read(run.results.predictions(row, split))


def _short(value: float | None) -> float | None:
    """Return a number with six digits, which are enough to look at."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
