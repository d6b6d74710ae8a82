"""`report.html`: one file that holds the content, the program that shows it, and its plots.

The file loads nothing, and says so to the browser by a content security policy: only the scripts
and styles that were written with it run. The content is JSON without a `<`, so no text of a model
can end the element that holds it. The program turns texts into text nodes, never into markup.

uPlot draws the plots (https://github.com/leeoniya/uPlot, MIT): 50 KB, where Plotly has 4.5 MB and
Bokeh 1 MB, so that a page opens at once and can be sent by mail.
"""

import base64
import hashlib
import html
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from rrft_jax import json_files
from rrft_jax.assets import REPORT
from rrft_jax.evaluation.results import Results
from rrft_jax.monitoring import say
from rrft_jax.parallel import distributed
from rrft_jax.report.content import content
from rrft_jax.report.run import Run, read_metrics
from rrft_jax.settings import Config

NAME = "report.html"
STYLES = ("uPlot.min.css", "page.css")
SCRIPTS = (
    "uPlot.iife.min.js", "dom.js", "plots.js", "start.js", "curves.js", "results.js", "samples.js",
    "groups.js", "skipped.js", "page.js",
)  # fmt: skip


class Page:
    """The page of a run that is under way, written by the first process."""

    def __init__(self, workdir: pathlib.Path, config: Config, results: Results):
        """Take the run's folder, its config, and its results, which grow."""
        self._workdir, self._config, self._results = workdir, config, results
        self._told = False

    def refresh(self) -> None:
        """Write the page anew. A failure is reported once, and never stops the run."""
        if not distributed.is_host0():
            return
        try:
            run = Run(self._workdir, self._config, read_metrics(self._workdir), self._results)
            write([run], self._workdir / NAME)
        except Exception as error:  # whatever it is, the run is worth more than its page
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if not self._told:
                say(f"warning: {self._workdir / NAME} could not be written: {reason:.300}")
            self._told = True


def write(runs: Sequence[Run], file: pathlib.Path) -> None:
    """Write the page about some runs.

    Raises:
      UserError: a file of predictions is malformed.
      OSError: a file can't be read, or the page can't be written.
    """
    json_files.replace(file, page(content(runs)).encode())


def page(values: dict[str, Any]) -> str:
    """Return the HTML of a page about a `content`."""
    return html_of(values, ", ".join(run["name"] for run in values["runs"]), SCRIPTS)


def html_of(values: Any, title: str, scripts: Sequence[str]) -> str:
    """Return the HTML of a page.

    Args:
      values: its content.
      title: its title.
      scripts: the files of `assets/report/` that show the content, in order.
    """
    style, script = ("\n".join(map(_asset, names)) for names in (STYLES, scripts))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "title": html.escape(title),
        "policy": policy,
        "licence": _asset("uPlot-LICENSE.txt"),
        "style": style,
        "script": script,
        "content": escaped(values),
    }
    return re.sub(r"@(\w+)@", lambda mark: parts[mark[1]], _asset("page.html"))


def escaped(values: Any) -> str:
    """Return JSON that can stand inside an HTML element, whatever the texts in it are."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return (REPORT / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression by which a policy allows an inline text."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
