"""Texts of models and data on the console: without control characters, and side by side."""

import itertools
import textwrap
from collections.abc import Mapping


def visible(text: str) -> str:
    r"""Write line breaks as \n, and so on: a text of the data must not control the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def side_by_side(texts: Mapping[str, str], width: int) -> list[str]:
    """Return lines in which each text is a column under its name.

    Args:
      texts: name -> text, which may have several lines.
      width: the columns of the console that all texts share. Each has at least 20.
    """
    own = max(20, (width - 3 * (len(texts) - 1)) // len(texts))
    cells = [
        [line for part in (name[-own:], "", *text.splitlines()) for line in _wrapped(part, own)]
        for name, text in texts.items()
    ]
    rows = itertools.zip_longest(*cells, fillvalue="")
    return [" | ".join(cell.ljust(own) for cell in row).rstrip(" |") for row in rows]


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(visible(line.expandtabs()), width) or [""]
