"""The worked example of a task: the page's file and its one line, in a copy of the package."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.docs.pages import EXAMPLE, ROOT, blocks, commands
from tests.short import QUICK, SHORT

PAGE = "docs/models-and-tasks.md"
# What makes the documented run a short one.
SMALL = (
    *SHORT,
    "--config.sft.steps=2",
    "--config.sft.batch_size=4",
    "--config.sft.warmup_steps=0",
    "--config.grpo.steps=2",
)


def block(language: str) -> str:
    """The only block of a language on the page."""
    [found] = [block.text for block in blocks(language) if block.page == PAGE]
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the package, changed as the page says."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("rrft_jax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    code = block("python")
    name = re.match(r"# (rrft_jax/tasks/\w+\.py)\n", code)[1]
    (folder / name).write_text(code, encoding="utf-8")
    before, added = block("diff").splitlines()
    assert before.startswith(" ") and added.startswith("+")
    registry = folder / "rrft_jax/tasks/__init__.py"
    text = registry.read_text(encoding="utf-8")
    assert text.count(before[1:] + "\n") == 1
    registry.write_text(text.replace(before[1:], f"{before[1:]}\n{added[1:]}"), encoding="utf-8")
    return folder


def run(tree, module: str, *more: str) -> None:
    """Run the page's command of a module in the copy."""
    [text] = [text for text in commands() if module in text and EXAMPLE in text]
    words = [*shlex.split(text)[1:], *more]
    environment = {**os.environ, "PYTHONPATH": str(tree), "XLA_FLAGS": QUICK}
    done = subprocess.run(
        [sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_example_is_as_long_as_one_screen():
    assert len(block("python").splitlines()) <= 60


@pytest.mark.slow
def test_the_example_trains(tree):
    run(tree, "rrft_jax.main", *SMALL)
    results = json.loads((tree / "runs/squares/results.json").read_text())
    assert list(results) == ["start", "sft", "grpo"]
    for row in results.values():
        assert [(split, entry["samples"]) for split, entry in row.items()] == [
            ("id", 4),
            ("ood", 4),
        ]
    predictions = (tree / "runs/squares/predictions-id.jsonl").read_text().splitlines()
    assert {json.loads(line)["task"] for line in predictions} == {EXAMPLE}
    prompts = {json.loads(line)["prompt"] for line in predictions}
    assert all("left or right, inside <answer>" in prompt for prompt in prompts)
    steps = (tree / "runs/squares/metrics.jsonl").read_text().splitlines()
    stages = [json.loads(line)["stage"] for line in steps]
    assert stages == ["sft", "sft", "grpo", "grpo"]


def test_the_example_is_drawn_into_a_folder(tree):
    run(tree, "rrft_jax.data.drawn", "--train=2", "--test=1", "--size=56")
    names = {file.name for file in (tree / "squares").glob("*_jsons/*.json")}
    assert names == {
        "Larger-Square-train-cot.json",
        "Larger-Square-id-test.json",
        "Larger-Square-ood-test.json",
    }
