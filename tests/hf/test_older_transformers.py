"""What we package and export is the same model to the transformers of today and of before.

Every family is read by the releases that know it.

The older releases are put into a folder of their own, without what they depend on: that is there.
"""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.assets import TINY
from rrft_jax.bench.checkpoint import write_checkpoint
from rrft_jax.data import Processor
from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.hf import load_pretrained, save_pretrained
from rrft_jax.models.families import FAMILIES
from rrft_jax.rollout import GenerationConfig, SamplingParams, generate
from rrft_jax.tasks.drawings import counting
from tests.hf import reading

# Each with the releases of its own time, which its import insists on.
RELEASES = {
    "4.57.6": ("huggingface-hub==0.36.0", "tokenizers==0.22.1"),
    "4.49.0": ("huggingface-hub==0.29.3", "tokenizers==0.21.1"),
}
UNKNOWN = {"4.57.6": (), "4.49.0": ("qwen3_vl",)}  # the families that came later
REPLY = "<think> a1 red, b2 blue. </think>\n<answer> 12 </answer><|im_end|>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name -> folder: the packaged model, and exports of families that have learnt something."""
    run = tmp_path_factory.mktemp("run")
    sources = {"qwen2_vl": str(TINY)}
    for family in [family for family in FAMILIES if family not in sources]:
        sources[family] = str(run / family)
        write_checkpoint(sources[family], family, "tiny", "float32", 0, 10**9)
    random, found = np.random.default_rng(0), {"packaged": str(TINY)}
    for family, source in sources.items():
        model, params = load_pretrained(source, jnp.float32)
        params = jax.tree.map(lambda x: x + random.normal(0, 0.01, x.shape).astype(x.dtype), params)
        found[family] = str(run / f"{family}-export")
        save_pretrained(found[family], model, params)
    return found


@pytest.fixture(scope="module")
def question(tmp_path_factory):
    """The file of a question about a picture, as `reading` takes it."""
    folder = tmp_path_factory.mktemp("question")
    example = counting.sample("id", 0, 3, TINY_SIZE)
    example.images[0].save(folder / "scene.png")
    content = [{"type": "image"}, {"type": "text", "text": "Describe the picture."}]
    asked = {
        "chat": [{"role": "user", "content": content}],
        "picture": str(folder / "scene.png"),
        "reply": REPLY,
    }
    (folder / "question.json").write_text(json.dumps(asked))
    return folder / "question.json"


@pytest.fixture(scope="module")
def ours(folders, question):
    """What our own code makes of each folder, in the form of `reading.read`."""
    asked = json.loads(question.read_text())
    found = {}
    score = jax.jit(lambda model, *inputs: model.score(*inputs), static_argnums=0)
    for name, folder in folders.items():
        model, params = load_pretrained(folder, jnp.float32)
        processor = Processor.from_pretrained(folder)
        row = processor.encode(asked["chat"], [asked["picture"]])
        reply = processor.encode_target(REPLY.removesuffix("<|im_end|>"))
        batch = jax.tree.map(jnp.asarray, processor.batch([row]))
        scores = score(model, params, batch, jnp.array([[reply]]))[0, 0]
        out = generate(
            model,
            params,
            batch,
            jax.random.key(0),
            GenerationConfig(
                max_new_tokens=reading.NEW_TOKENS,
                stop_tokens=processor.stop_tokens,
                sampling=SamplingParams(0.0, 0, 1.0),
            ),
        )
        length = int(out.mask[0, 0].sum())
        found[name] = {
            "prompt": row.tokens.tolist(),
            "reply": reply,
            "log_probs": np.asarray(scores),
            "greedy": out.tokens[0, 0, :length].tolist(),
        }
    return found


def check(found: dict, expected: dict) -> None:
    assert not found["problems"]
    assert found["decoded"] == REPLY
    for name in ("prompt", "reply", "greedy"):
        assert found[name] == expected[name], name
    np.testing.assert_allclose(found["log_probs"], expected["log_probs"], atol=1e-4)


def test_todays_transformers_reads_the_same_model(folders, question, ours):
    asked = json.loads(question.read_text())
    for name, folder in folders.items():
        check(reading.read(folder, **asked), ours[name])


@pytest.mark.parametrize("release", RELEASES)
def test_an_older_transformers_reads_the_same_model(release, folders, question, ours, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    install(tmp_path, f"transformers=={release}", *RELEASES[release])
    names = [name for name in folders if name not in UNKNOWN[release]]
    done = subprocess.run(
        [sys.executable, reading.__file__, question, *map(folders.get, names)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for line, name in zip(done.stdout.splitlines(), names, strict=True):
        found = json.loads(line)
        assert found["version"] == release
        check(found, ours[name])


def install(folder: pathlib.Path, *packages: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-compile", "--target", folder, *packages],
        capture_output=True,
        text=True,
    )
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip(f"the package index doesn't give {packages[0]}: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr[-2000:]
