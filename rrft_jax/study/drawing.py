"""Figures as PNG and SVG files, by matplotlib, which the extra `study` installs."""

import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rrft_jax.study.figures import Figure, Panel

_COLUMNS = 3  # panels side by side
_INCHES = 4.2, 3.2  # of a panel
_BARS = 0.8  # width of a group of bars
# Colours that people with a colour vision deficiency can tell apart (Okabe and Ito).
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")


def available() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(figures: Sequence[Figure], folder: pathlib.Path) -> None:
    """Write each figure to NAME.png and NAME.svg in a folder, which is made if missing."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    folder.mkdir(exist_ok=True)
    # The same figures are the same files.
    names = dict.fromkeys(line.name for one in figures for p in one.panels for line in p.lines)
    colours = {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(names)}
    with matplotlib.rc_context({"svg.hashsalt": "study", "font.size": 9}):
        for figure in figures:
            columns = min(_COLUMNS, len(figure.panels))
            rows = -(-len(figure.panels) // columns)
            wide = max([1, *(_groups(panel) / 4 for panel in figure.panels)])
            size = _INCHES[0] * columns * wide, _INCHES[1] * rows
            canvas = Canvas(figsize=size, layout="constrained")
            canvas.suptitle(figure.title)
            axes = canvas.subplots(rows, columns, squeeze=False).ravel()
            for panel, axis in zip(figure.panels, axes):
                _panel(panel, axis, colours)
            _legend(canvas, axes)
            for axis in axes[len(figure.panels) :]:
                axis.set_axis_off()
            for form, about in (("png", "Software"), ("svg", "Date")):
                file = folder / f"{figure.name}.{form}"
                canvas.savefig(file, dpi=150, metadata={about: None})


def _panel(panel: Panel, axis: Any, colours: Mapping[str, str]) -> None:
    """Draw a panel into axes of matplotlib; `colours` are those of the lines by name."""
    axis.set_title(panel.title, fontsize=10)
    axis.set_xlabel(panel.axis)
    axis.grid(alpha=0.3)
    if panel.kind == "bars":
        _draw_bars(panel, axis, colours)
    for line in panel.lines if panel.kind != "bars" else ():
        colour = colours[line.name]
        marker = "o" if len(line.x) < 20 else None
        axis.plot(line.x, line.y, label=line.name, color=colour, marker=marker, markersize=4)
        axis.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    if panel.kind == "log":
        ticks = sorted({x for line in panel.lines for x in line.x})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{x:,}" for x in ticks])
        axis.minorticks_off()


def _legend(canvas: Any, axes: Sequence[Any]) -> None:
    """Name the lines of all panels once, below them."""
    found = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels()):
            found.setdefault(name, handle)
    canvas.legend(found.values(), found, loc="outside lower center", ncols=len(found), fontsize=9)


def _draw_bars(panel: Panel, axis: Any, colours: Mapping[str, str]) -> None:
    groups = list(dict.fromkeys(x for line in panel.lines for x in line.x))
    width = _BARS / len(panel.lines)
    for number, line in enumerate(panel.lines):
        places = [groups.index(x) + (number + 0.5) * width - _BARS / 2 for x in line.x]
        errors = [high - y for high, y in zip(line.high, line.y)]
        axis.bar(
            places, line.y, width, yerr=errors, label=line.name, color=colours[line.name], capsize=2
        )
    axis.set_xticks(range(len(groups)), [name.replace(", ", "\n") for name in groups])
    axis.set_axisbelow(True)


def _groups(panel: Panel) -> int:
    """Return the number of groups of bars."""
    return len({x for line in panel.lines for x in line.x}) if panel.kind == "bars" else 0
