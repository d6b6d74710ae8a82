"""The accuracies that Reason-RFT's paper reports (arXiv 2503.20752), to set beside a run's."""

from collections.abc import Mapping, Sequence

# Task -> its columns: the split, and which part of it where the paper has several.
_COLUMNS = {
    "visual_counting": (("id", ""), ("ood", "DS-D"), ("ood", "DS-M")),
    "structure_perception": (("id", ""), ("ood", "")),
    "spatial_transformation": (("id", ""), ("ood-left", ""), ("ood-right", "")),
}

# Samples of a part, which the granularity of the scores tells: the whole split is their mean.
_SAMPLES = {"DS-D": 750, "DS-M": 250}

# Model -> row -> percent, task after task in the order of _COLUMNS.
_ROWS = {
    "2b": {
        "zero-shot": ((82.40, 42.67, 0.00), (25.86, 20.63), (3.78, 4.60, 4.67)),
        "ANS-SFT": ((96.20, 51.07, 5.20), (51.34, 22.50), (77.39, 49.24, 50.33)),
        "CoT-SFT": ((85.50, 49.73, 36.80), (43.05, 25.25), (64.37, 43.19, 42.86)),
        "Reason-RFT-Zero": ((98.40, 58.00, 5.20), (47.68, 32.50), (42.13, 34.07, 33.41)),
        "Reason-RFT": ((96.80, 60.00, 28.40), (49.03, 33.13), (74.61, 64.05, 64.08)),
    },
    "7b": {
        "zero-shot": ((98.60, 54.53, 4.80), (43.30, 43.88), (13.53, 12.72, 12.78)),
        "ANS-SFT": ((95.00, 42.53, 8.00), (51.34, 25.38), (82.19, 54.29, 54.83)),
        "CoT-SFT": ((87.30, 45.33, 33.60), (50.49, 33.00), (81.31, 47.90, 47.80)),
        "Reason-RFT-Zero": ((99.40, 63.60, 21.20), (55.00, 54.75), (67.67, 57.20, 56.15)),
        "Reason-RFT": ((95.60, 56.13, 35.60), (59.27, 49.25), (79.97, 59.36, 58.61)),
    },
}

NOTE = "In brackets are the parts DS-D and DS-M of the paper's split."


def cells(model: str, task: str, splits: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the paper reports, as cells of a table of results.

    Args:
      model: "2b" or "7b"; of any other nothing is reported.
      task: of the splits that don't name theirs.
      splits: as `results.json` names them, "id" or "structure_perception/id".

    Returns:
      Row ("paper: Reason-RFT") -> split -> accuracy in percent, with those of its parts behind it
      where the paper has them apart. Splits that it doesn't know are left out, and so are rows
      without any.
    """
    found: dict[str, dict[str, str]] = {}
    for row, by_task in _ROWS.get(model, {}).items():
        values = dict(zip(_COLUMNS, by_task))
        for name in splits:
            own, _, split = name.rpartition("/")
            parts = _parts(own or task, split, values)
            if parts:
                found.setdefault(f"paper: {row}", {})[name] = _cell(parts)
    return found


def _parts(task: str, split: str, values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Part -> percent, of one split; a single "" where it has no parts."""
    columns = zip(_COLUMNS.get(task, ()), values.get(task, ()))
    return {part: value for (name, part), value in columns if name == split}


def _cell(parts: Mapping[str, float]) -> str:
    if list(parts) == [""]:
        return f"{parts['']:.2f}"
    total = sum(_SAMPLES[part] for part in parts)
    whole = sum(_SAMPLES[part] * value for part, value in parts.items()) / total
    return f"{whole:.2f} ({' / '.join(f'{value:.2f}' for value in parts.values())})"
