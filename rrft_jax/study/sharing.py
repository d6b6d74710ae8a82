"""What the cells of a study need not do twice: evaluations of the same weights, and a first stage.

A follower gets the evaluations of another cell before it begins, in its own folder. So it finds
them as a resumed run would.
"""

import pathlib
import shutil
from collections.abc import Collection, Sequence

from rrft_jax import json_files
from rrft_jax.fields import plain
from rrft_jax.report.run import json_lines
from rrft_jax.study.cells import Cell
from rrft_jax.workdir import saved_steps, write_json

_RESULTS = "results.json"


def prepare(cell: Cell, leader: Cell | None, cells: Sequence[Cell]) -> list[str]:
    """Give a cell that has not begun what others have done for it.

    Args:
      cell: the cell.
      leader: the finished cell with the same SFT, if there is one.
      cells: all cells of the study.

    Returns:
      The arguments with which it begins.
    """
    if cell.begun:
        return []
    if not (cell.folder / _RESULTS).exists():
        same = [other for other in cells if _has(other, "start") and _asks_alike(other, cell)]
        if leader is not None and _has(leader, "sft"):
            lend(leader.folder, cell.folder, ("start", "sft"))
        elif same:
            lend(same[0].folder, cell.folder, ("start",))
    saved = saved_steps(leader.folder, ["sft"]) if leader else {}
    return [f"--branch_from={leader.folder}:sft@{saved['sft'][-1]}"] if saved else []


def lend(giver: pathlib.Path, taker: pathlib.Path, rows: Collection[str]) -> None:
    """Copy evaluations from one run's folder to another that has none.

    `results.json` is written last, so that an evaluation counts once its files are there.
    """
    results = json_files.read_object((giver / _RESULTS).read_bytes())
    for row in rows:
        folder = taker / "evaluations" / row
        shutil.copytree(giver / "evaluations" / row, folder, dirs_exist_ok=True)
        for file in folder.glob("predictions-*.jsonl"):
            for picture in (name for line in json_lines(file) for name in line.get("pictures", ())):
                (taker / picture).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(giver / picture, taker / picture)
    write_json(taker / _RESULTS, {row: results[row] for row in rows})


def _has(cell: Cell, row: str) -> bool:
    """Return whether a cell has an evaluation of all its splits in files beside its last one."""
    file = cell.folder / _RESULTS
    if not cell.finished or not file.exists():
        return False
    return (
        bool(json_files.read_object(file.read_bytes()).get(row))
        and (cell.folder / "evaluations" / row).is_dir()
    )


def _asks_alike(one: Cell, other: Cell) -> bool:
    """Return whether two cells evaluate the base in the same words, to the same completions.

    Greedy completions do not depend on the seed.
    """
    if one.seed != other.seed and other.config.eval.temperature > 0:
        return False
    values = [plain(cell.config) for cell in (one, other)]
    for own in values:
        own.update(seed=0, sft=None, grpo=None, sampling=None)
        own["data"] = {**own["data"], "samples": 0, "activation_samples": 0}
    return values[0] == values[1]
