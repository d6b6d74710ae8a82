"""What a study shows: its plan before the runs, and its report after them."""

import pathlib
from collections.abc import Sequence

from rrft_jax import json_files
from rrft_jax.markdown import aligned
from rrft_jax.monitoring import say
from rrft_jax.study import cost, drawing, outcome, page
from rrft_jax.study.cells import Cell, leader
from rrft_jax.study.figures import figures
from rrft_jax.study.tables import flops, table
from rrft_jax.workdir import write_json

FIGURES = "figures"


def report(out: pathlib.Path, *, told: bool = True) -> None:
    """Compute the outcome from the files of the finished cells, and write it.

    These files are written: `results.json`, `table.md`, `study.html`, and the figures if matplotlib
    is installed.

    Args:
      out: the folder of the study.
      told: whether the table is printed too.

    Raises:
      UserError: no cell is finished.
    """
    cells = outcome.read(out)
    text, drawn = table(cells), figures(cells)
    write_json(out / "results.json", outcome.as_json(cells))
    json_files.replace(out / "table.md", f"{text}\n".encode())
    page.write(drawn, text, out / page.NAME)
    if drawing.available():
        drawing.draw(drawn, out / FIGURES)
    if not told:
        return
    print(text, flush=True)
    if not drawing.available():
        say(f"{out / FIGURES}: not written: it takes matplotlib, by pip install 'rrft_jax[study]'")
    say(f"study: {out / page.NAME}")


def plan(cells: Sequence[Cell]) -> None:
    """Print the cells of a study, their costs, and an estimate of the time that is left.

    Raises:
      UserError: the model or the data has a mistake.
    """
    costs = cost.Costs()
    expected = {cell.name: costs.of(cell) for cell in cells}
    finished = [cell for cell in cells if cell.finished]
    rows, left, unknown = [], 0.0, False
    for cell in cells:
        own = expected[cell.name]
        first = leader(cell, cells)
        seconds = None if cell.finished else cost.estimate(cell, expected, finished)
        state = "finished" if cell.finished else "begun" if cell.begun else ""
        left += seconds or 0.0
        unknown = unknown or not (cell.finished or seconds)
        rows.append(
            [
                cell.name,
                " + ".join(f"{stage} {number:,}" for stage, number in own.steps.items()),
                f"{own.samples_seen:,}",
                f"{own.completions:,}",
                flops(own.flops),
                f"{seconds / 60:.0f}" if seconds else "",
                state or (f"SFT of {first.name}" if first else ""),
            ]
        )
    head = ["cell", "steps", "samples seen", "completions", "FLOPs at most", "min", "note"]
    print(*aligned([head, *rows], left=2), sep="\n")
    total = sum(own.flops for own in expected.values())
    print(f"{len(cells)} cells, {flops(total)} training FLOPs at most")
    if finished and not unknown:
        print(
            f"about {left / 3600:.1f} h of steps are left, by the speed of the finished cells; "
            "evaluations and compilation come on top"
        )
    else:
        print("an estimate of the time follows once a cell is finished")
    print("dry run: nothing written")
