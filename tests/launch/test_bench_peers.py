"""launch/bench_peers.sh: its arguments, its turns, and that both sides do the same work."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rrft_jax.data import Processor
from rrft_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "launch/peers"
PROGRAM = f"""
import sys
sys.path.insert(0, {str(PEERS)!r})
from turns import Turns
turns = Turns()
print("a package's own words")
turns.ready("pip")
while turns.wait():
    print("more of them", flush=True)
    turns.done(tokens=3)
"""


@pytest.fixture(scope="module", autouse=True)
def programs():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PEERS)
        yield


@pytest.fixture(scope="module", params=["grpo", "sft"])
def work(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    written = importlib.import_module("work").write(str(folder), request.param, 2, 1)
    assert importlib.import_module("work").read(str(folder)) == written
    return written


@pytest.mark.parametrize("arguments, said", [
    (["nothing"], "nothing: is no known package; take one of trl, transformers"),
    (["transformers", "--work=sft"], "--work=sft: with transformers, take one of grpo"),
    (["trl", "--turns=0"], "--turns=0: must be at least 1"),
    (["trl", "--threads=999"], "--threads=999: must be from 1 to "),
])  # fmt: skip
def test_an_argument_that_makes_no_sense_is_one_line(arguments, said, tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "PEERS_CACHE": str(tmp_path / "cache")}
    script = [ROOT / "launch/bench_peers.sh", *arguments]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_program_takes_turns_whatever_else_it_prints(tmp_path):
    compare = importlib.import_module("compare")
    command = [sys.executable, "-c", PROGRAM]
    sides = [compare.Side(name, command, tmp_path / name, 1) for name in ("a", "b")]
    for side in sides:
        side.begin()
    assert [side.step() for _ in range(3) for side in sides] == 6 * [{"tokens": 3}]
    for side in sides:
        side.end()
        assert side.process.returncode == 0
        assert "a package's own words\nmore of them" in side.log.read_text()
    sides[0].seconds, sides[1].seconds = [9.0, 1.0, 2.0, 4.0], [9.0, 3.0, 8.0, 8.0]
    table = compare.table("grpo", sides, 1)
    assert "| median seconds | 2.00 | 8.00 |" in table and "pip " in table
    assert table.endswith(": 4.00 (single turns: 2.00 to 4.00)")


def test_a_program_that_fails_says_why_in_one_line(tmp_path):
    compare = importlib.import_module("compare")
    command = [
        sys.executable,
        "-c",
        "import sys; print('x', file=sys.stderr); sys.exit('no memory is left')",
    ]
    side = compare.Side("other", command, tmp_path / "log", 1)
    with pytest.raises(UserError, match=r"^the program of other failed \(no memory is left\); see"):
        side.begin()
    side.end()


def test_both_sides_read_the_same_prompts(work):
    ours = importlib.import_module("with_rrft")
    prompt = ours.prompts(work, Processor.from_pretrained(work.checkpoint))
    assert len(prompt.tokens) == {"grpo": 4, "sft": 8}[work.name]
    assert (prompt.mask.sum(axis=1) == 293).all()
    theirs = importlib.import_module("with_transformers").Step(work).inputs()
    repeated = np.repeat(prompt.tokens[:, -293:], work.samples, axis=0)
    assert np.array_equal(repeated, theirs["input_ids"])
    pictures = np.repeat(prompt.patches[:, : 22 * 34], work.samples, axis=0)
    found = theirs["pixel_values"].numpy().reshape(pictures.shape)
    assert np.allclose(pictures, found, atol=1e-4)
    target = Processor.from_pretrained(work.checkpoint).encode_target(work.target)
    assert 293 + len(target) == 359
