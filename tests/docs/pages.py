"""What the tests of the documentation read: its pages, their blocks, commands and code spans."""

import dataclasses
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(file.relative_to(ROOT)): file.read_text(encoding="utf-8")
    for file in (
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
        *sorted(ROOT.glob("docs/*.md")),
    )
}

# The task of the worked example. Only the copy that `test_models_and_tasks.py` makes knows it.
EXAMPLE = "larger_square"

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
# The first words of code spans that are commands.
_STARTS = re.compile(
    r"(?:[A-Z_]+=\S+ )?(?:python -m |\.venv/bin/|\./launch/|\.ci/"
    r"|(?:bash|docker|pip|rrft|sbatch|kubectl) )"
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    """The blocks of a language, in the order of the pages."""
    return [
        Block(page, language, text)
        for page, content in PAGES.items()
        for _, found, text in _BLOCK.findall(content)
        if found == language
    ]


def spans() -> list[tuple[str, str]]:
    """(page, code span), without those of fenced blocks; each once."""
    found = {
        (page, span): None
        for page, content in PAGES.items()
        for span in _SPAN.findall(_BLOCK.sub("", content))
    }
    return list(found)


def commands() -> dict[str, list[str]]:
    """Command as it is written -> the pages that have it; of shell blocks and of code spans."""
    found: dict[str, list[str]] = {}
    for block in blocks("sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                found.setdefault(shlex.join(words), []).append(block.page)
    for page, span in spans():
        if _STARTS.match(span):
            found.setdefault(shlex.join(shlex.split(span)), []).append(page)
    return found
