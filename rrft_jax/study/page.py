"""`study.html`: the figures and the tables of a study in one file that opens in any browser."""

import dataclasses
import pathlib
from collections.abc import Sequence

from rrft_jax import json_files
from rrft_jax.report.page import html_of
from rrft_jax.study.figures import Figure

NAME = "study.html"
SCRIPTS = ("uPlot.iife.min.js", "dom.js", "plots.js", "study.js")


def write(figures: Sequence[Figure], table: str, file: pathlib.Path) -> None:
    """Write the page.

    Raises:
      OSError: the file can't be written.
    """
    title = f"Study: {file.absolute().parent.name}"
    values = {
        "title": title,
        "figures": [dataclasses.asdict(figure) for figure in figures],
        "table": table,
    }
    json_files.replace(file, html_of(values, title, SCRIPTS).encode())
