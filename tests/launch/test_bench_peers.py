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


@pytest.fixture(scope="module", params=["grpo", "grpo_text", "sft"])
def work(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    written = importlib.import_module("work").write(str(folder), request.param, 2, 1)
    assert importlib.import_module("work").read(str(folder)) == written
    return written


@pytest.mark.parametrize("arguments, said", [
    (["nothing"], "nothing: is no known package; take one of trl, transformers, vllm"),
    (["transformers", "--work=sft"], "--work=sft: with transformers, take one of grpo"),
    (["vllm", "--work=grpo"], "--work=grpo: with vllm, take one of sampling"),
    (["trl", "--turns=0"], "--turns=0: must be at least 1"),
    (["trl", "--threads=999"], "--threads=999: must be from 1 to "),
])  # fmt: skip
def test_an_argument_that_makes_no_sense_is_one_line(arguments, said, tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "PEERS_CACHE": str(tmp_path / "cache")}
    script = [ROOT / "launch/bench_peers.sh", *arguments]
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_package_has_a_usual_work():
    read = importlib.import_module("compare").read
    works = {peer: read([peer]).work for peer in ("trl", "transformers", "vllm", "tunix")}
    expected = {"trl": "grpo", "transformers": "grpo", "vllm": "sampling", "tunix": "grpo_text"}
    assert works == expected and read(["trl", "--work=sft"]).work == "sft"


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


def test_the_peak_memory_is_that_of_all_processes_of_a_program():
    peak = importlib.import_module("turns")._peak_memory
    alone = peak()
    program = "import os; x = os.urandom(2**26); print(flush=True); input()"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert peak() - alone > 2**26
        child.stdin.close()


@pytest.mark.parametrize("error", ["ImportError", "OSError", "RuntimeError"])
def test_a_package_that_fails_to_load_is_seen(error, tmp_path, monkeypatch):
    (tmp_path / "whole.py").touch()
    (tmp_path / f"broken_{error}.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    loads = importlib.import_module("mend_vllm").loads
    assert loads("whole") and not loads(f"broken_{error}")


def test_both_sides_read_the_same_prompts(work):
    processor = Processor.from_pretrained(work.checkpoint)
    prompt = importlib.import_module("with_rrft").prompts(work, processor)
    assert len(prompt.tokens) == work.prompts == (8 if work.name == "sft" else 4)
    assert (prompt.mask.sum(axis=1) == 293).all()
    assert 293 + len(processor.encode_target(work.target)) == 359
    if work.pictures:
        theirs = importlib.import_module("with_transformers").Step(work).inputs()
        tokens, found = theirs["input_ids"], theirs["pixel_values"].numpy()
        pictures = np.repeat(prompt.patches[:, : 22 * 34], work.samples, axis=0)
        assert np.allclose(pictures, found.reshape(pictures.shape), atol=1e-4)
    else:
        tokenizer = importlib.import_module("tokens").Tokenizer(work)
        tokens = work.prompts * work.samples * [tokenizer.encode(tokenizer.prompt)]
        text = tokenizer.decode([300, 301])
        assert text == processor.decode([300, 301]) and not prompt.patches.size
        counted = {"completions": 1, "completion_tokens": 2, "prompt_tokens": 293}
        assert tokenizer.counts() == counted
    repeated = np.repeat(prompt.tokens[:, -293:], work.samples, axis=0)
    assert np.array_equal(repeated, tokens)
