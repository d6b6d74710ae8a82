"""The check as its script runs it, in small on the CPU, on a machine with few packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rrft_jax.accelerator import scale
from rrft_jax.accelerator.parts import PARTS
from rrft_jax.models.families import FAMILIES, RELEASED

ROOT = Path(__file__).resolve().parents[2]
# A machine with an accelerator may lack them, and the check installs nothing.
ABSENT = ("grain", "math_verify", "ml_collections", "tensorflow_datasets")


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """(the finished process, the content of its JSON file)."""
    folder = tmp_path_factory.mktemp("check")
    block = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    (folder / "sitecustomize.py").write_text(block)
    done = subprocess.run(
        [str(ROOT / "launch/accelerator_check.sh"), "--out=found", "--minutes=60"],
        env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done, json.loads((folder / "found/accelerator.json").read_text())


@pytest.mark.slow
def test_every_part_runs_and_holds(check):
    done, found = check
    outcomes = {name: (part["status"], part["why"]) for name, part in found["parts"].items()}
    assert outcomes == {name: ("ok", "") for name in PARTS}
    assert (done.returncode, found["holds"], done.stderr) == (0, True, "")
    assert done.stdout.endswith("everything holds\n")


def test_all_that_speed_needs_is_measured(check):
    measured = {
        name: {finding["what"]: finding["value"] for finding in part["findings"]}
        for name, part in check[1]["parts"].items()
    }
    assert measured["device"]["device"] == "cpu"
    for part, what in (
        ("sampling", "a decoding step, milliseconds"),
        ("sampling", "memory by the plan, GiB"),
        ("update", "update, seconds"),
        ("update", "memory by the plan, GiB"),
        ("torch", "update, seconds"),
        ("grpo", "step 2, reward"),
    ):
        assert isinstance(measured[part][what], float)
    # They need what only an accelerator tells.
    assert measured["sampling"]["share of the memory's bandwidth"] is None
    assert measured["update"]["update, model FLOPs utilisation"] is None


def test_the_summary_compares_the_steps(check):
    summary = {finding["what"]: finding["value"] for finding in check[1]["summary"]}
    ratio = summary["a step by transformers, seconds"] / summary["a step, seconds"]
    assert summary["a step, transformers to this package"] == pytest.approx(ratio, rel=1e-3)


def test_the_full_check_covers_all_families():
    sizes = scale.full()
    heads = {tower.head_size for c in RELEASED.values() for tower in (c.vision, c.text)}
    assert heads <= set(sizes.head_sizes)
    assert set(sizes.families) == set(FAMILIES)
    for family in FAMILIES.values():
        assert family.released.keys() & sizes.scored.keys(), family.title
    assert {c.vision.head_size for c in sizes.scored.values()} == {64, 72, 80}


def test_the_script_refuses_a_python_without_jax(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E -I "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "launch/accelerator_check.sh")],
        env=os.environ | {"PYTHON": str(python)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {python}: expected Python 3.11 or newer with jax, flax")
    assert done.stderr.count("\n") == 1
