"""The documentation's form: its length, its links, and the files that it names."""

import re

import pytest
import yaml

import rrft_jax
from rrft_jax import rewards
from rrft_jax.__main__ import COMMANDS
from rrft_jax.parallel import sharding
from rrft_jax.tasks import TASKS
from tests.docs.pages import PAGES, ROOT, spans

LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)")
OF_A_RUN = ("table.md",)
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|sh|md|yaml|sbatch|ipynb|cff|toml)")


def anchors(text: str) -> set[str]:
    """The ids that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in headings}


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall(PAGES[page]):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_page_of_the_commands_is_their_list():
    rows = re.findall(r"^\| `rrft (\w+)` \| (.+) \| `([\w.]+)` \|$", PAGES["docs/install.md"], re.M)
    listed = [
        (name, command.summary, command.module.removesuffix(".__main__"))
        for name, command in COMMANDS.items()
    ]
    assert rows == listed


def test_the_changelog_begins_with_what_is_unreleased():
    """Its sections and the kinds of changes are those of Keep a Changelog."""
    versions = re.findall(r"^## (.+)$", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(
        re.fullmatch(r"\[?\d+\.\d+\.\d+\]? - \d{4}-\d\d-\d\d", name) for name in versions[1:]
    )
    kinds = re.findall(r"^### (.+)$", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert {*kinds} <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_every_page_is_listed_in_the_readme():
    listed = {link.partition("#")[0] for link in LINK.findall(PAGES["README.md"])}
    assert set(PAGES) - {"README.md"} <= listed


FILES = [(page, span) for page, span in spans() if FILE.fullmatch(span) and span not in OF_A_RUN]


@pytest.mark.parametrize("page, name", FILES, ids=[f"{page}: {name}" for page, name in FILES])
def test_a_file_that_is_named_exists(page, name):
    assert any((ROOT / folder / name).exists() for folder in ("", "rrft_jax")), name


def test_the_house_is_as_it_is_drawn():
    """Each name in the tree is there, and each package is in the tree."""
    [tree] = re.findall(r"^```\nrrft_jax/\n(.*?)^```", PAGES["docs/architecture.md"], re.M | re.S)
    inside = re.findall(r"^  (\S+)", tree, re.MULTILINE)
    beside = re.findall(r"^(\w\S+)", tree, re.MULTILINE)
    assert [name for name in inside if not (ROOT / "rrft_jax" / name).exists()] == []
    assert [name for name in beside if not (ROOT / name).exists()] == []
    packages = {f"{file.parent.name}/" for file in ROOT.glob("rrft_jax/*/__init__.py")}
    assert packages <= set(inside)


def test_the_glossary_is_the_sharding_table():
    rows = re.findall(r"^\| (\S) \| [^|]+ \|(.*)\|$", PAGES["docs/architecture.md"], re.MULTILINE)
    split = {axis: tuple(re.findall(r"`(\w+)`", over)) for axis, over in rows}
    assert {axis: over for axis, over in split.items() if over} == sharding.LOGICAL_AXES
    assert set(split) >= set("BGPTRSNLDHKCFV")


def test_the_citation():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0" and cited["license"] == "Apache-2.0"
    assert cited["version"] == rrft_jax.__version__ and cited["title"] == "rrft_jax"
    assert cited["authors"] and cited["message"]
    assert cited["references"][0]["url"] == "https://arxiv.org/abs/2503.20752"


INSTRUCTIONS = [
    ".".join(filter(None, (name, own)))
    for name, task in TASKS.items()
    for own in task.wording.instructions
]


@pytest.mark.parametrize(
    "page, names",
    [
        ("docs/prompts.md", INSTRUCTIONS),
        ("docs/rewards.md", rewards.names()),
        ("docs/data.md", TASKS),
    ],
)
def test_a_page_lists_all_of_its_kind(page, names):
    missing = [name for name in names if f"`{name}`" not in PAGES[page]]
    assert not missing
