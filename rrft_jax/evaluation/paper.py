"""The paper's accuracies as cells of a table of results; each task's record has its numbers."""

from collections.abc import Sequence

from rrft_jax.tasks import TASKS, PaperResults, find

_PARTS = [part for task in TASKS.values() if task.paper for part in task.paper.samples]
NOTE = f"In brackets are the parts {' and '.join(_PARTS)} of the paper's split."


def cells(model: str, task: str, splits: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the accuracies that the paper reports, as cells of a table of results.

    Args:
      model: `model.name` of a config; the paper reports "2b" and "7b", both of Qwen2-VL.
      task: the task of the splits that don't name a task.
      splits: the splits by their names in `results.json`, "id" or "TASK/id".

    Returns:
      Row ("paper: Reason-RFT") -> split -> accuracy in percent. If the paper reports the parts of a
      split, the cell is their mean, followed by the parts in brackets. Splits that the paper
      doesn't have are left out, and so are rows without any split.
    """
    found: dict[str, dict[str, str]] = {}
    for name in splits:
        own, _, split = name.rpartition("/")
        paper = find(own or task).paper
        for row, values in paper.rows.get(model, {}).items() if paper else ():
            columns = zip(paper.columns, values)
            parts = {part: value for (column, part), value in columns if column == split}
            if parts:
                found.setdefault(f"paper: {row}", {})[name] = _cell(parts, paper)
    return found


def _cell(parts: dict[str, float], paper: PaperResults) -> str:
    if list(parts) == [""]:
        return f"{parts['']:.2f}"
    total = sum(paper.samples[part] for part in parts)
    whole = sum(paper.samples[part] * value for part, value in parts.items()) / total
    return f"{whole:.2f} ({' / '.join(f'{value:.2f}' for value in parts.values())})"
