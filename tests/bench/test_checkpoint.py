"""Random folders of every family: read as they were meant, and good to start from."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import AutoConfig

from rrft_jax import main
from rrft_jax.bench import __main__ as bench
from rrft_jax.bench import checkpoint
from rrft_jax.hf import load_pretrained
from rrft_jax.models import families
from rrft_jax.models.families import FAMILIES
from tests import tiny

PRESETS = [
    (name, preset) for name, f in FAMILIES.items() for preset in (*checkpoint.SIZES, *f.released)
]
GRPO = f"--config={pathlib.Path(__file__).resolve().parents[2]}/configs/grpo.py"


def write(folder: pathlib.Path, *options: str, family: str = "qwen2_5_vl") -> int:
    return bench.main(["checkpoint", f"--family={family}", f"--out={folder}", *options])


@pytest.mark.parametrize("name, preset", PRESETS)
def test_the_config_of_every_preset_is_read_as_it_was_written(name, preset):
    config = checkpoint.sizes(FAMILIES[name], preset)
    read = families.read(FAMILIES[name].write(config))
    # A family's files may leave this token to the tokenizer.
    assert dataclasses.replace(read, vision_pad_token=config.vision_pad_token) == config


@pytest.mark.parametrize("name", FAMILIES)
def test_activations_and_logits_have_a_usual_size(name, tmp_path):
    assert write(tmp_path / "a", family=name) == 0
    model, params = load_pretrained(tmp_path / "a", jnp.float32)
    assert model.config == checkpoint.sizes(FAMILIES[name], "tiny")
    prompt = tiny.with_grids(tiny.prompts())
    image = model.config.image_token
    prompt = prompt.replace(
        tokens=jnp.where(prompt.tokens == tiny.CONFIG.image_token, image, prompt.tokens + 20)
    )
    values = np.random.default_rng(0).normal(size=(2, 8, model.config.vision.patch_values))
    prompt = prompt.replace(patches=jnp.asarray(values, jnp.float32))
    hidden, _ = jax.jit(model.prefill)(params, prompt)
    logits = model.logits(params, hidden)
    assert 0.5 < float(logits.std()) < 2
    assert 0.1 < float(jax.jit(model.encode_images)(params, prompt).std()) < 10


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_the_config(name, tmp_path):
    assert write(tmp_path / "a", family=name) == 0
    theirs = AutoConfig.from_pretrained(tmp_path / "a")
    assert theirs.model_type == name
    assert theirs.vision_config.depth == checkpoint.sizes(FAMILIES[name], "tiny").vision.depth


def test_the_folder_depends_on_its_arguments_alone(tmp_path, capsys):
    assert write(tmp_path / "a", "--dtype=float32") == 0
    told = json.loads(capsys.readouterr().out)
    shards = ["--dtype=float32", "--max_shard_bytes=1000000"]
    assert write(tmp_path / "b", *shards) == write(tmp_path / "c", *shards, "--seed=1") == 0
    one, many, other = (load_pretrained(tmp_path / name)[1] for name in "abc")
    jax.tree.map(np.testing.assert_array_equal, one, many)
    assert all(
        (a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
    assert {x.dtype for x in jax.tree.leaves(one)} == {jnp.dtype("float32")}
    assert told["parameters"] == sum(x.size for x in jax.tree.leaves(one))
    assert told["bytes"] == sum(x.nbytes for x in jax.tree.leaves(one))
    assert len(list((tmp_path / "b").glob("model-*-of-*.safetensors"))) > 3


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert write(tmp_path) == 1
    assert "--out=" in (told := capsys.readouterr().err) and "not an empty folder" in told
    assert write(tmp_path / "new", "--preset=2b") == 1
    told = capsys.readouterr().err
    assert told.startswith("error: --preset=2b: Qwen2.5-VL has tiny, small, qwen2_5_vl_3b") and (
        not (tmp_path / "new").exists()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "qwen2_vl"])
def test_a_run_of_grpo_starts_from_the_folder_and_exports_its_family(name, tmp_path):
    assert write(tmp_path / "model", family=name) == 0
    arguments = [
        f"{GRPO}:paradigm=reason_rft_zero",
        f"--config.model.path={tmp_path / 'model'}",
        "--config.mesh.data=1",
        "--config.grpo.steps=1",
        "--config.grpo.batch_size=4",
        "--config.grpo.num_generations=2",
        "--config.sampling.max_new_tokens=8",
        "--config.eval.samples=8",
        "--config.eval.batch_size=8",
        "--config.eval.max_new_tokens=8",
        "--config.eval.sampled=False",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert main.main(arguments) == 0
    exported, _ = load_pretrained(tmp_path / "run" / "export")
    assert exported.config == checkpoint.sizes(FAMILIES[name], "tiny")
