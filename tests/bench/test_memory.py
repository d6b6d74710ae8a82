"""Numbers on memory come from compiled programs, and the programs keep what they promise."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from configs import grpo as grpo_config
from rrft_jax.bench import memory
from rrft_jax.errors import UserError
from rrft_jax.models import Qwen2VL
from rrft_jax.models.config import RELEASED
from rrft_jax.parallel.mesh import make_mesh
from tests import tiny

QUICK = {"xla_backend_optimization_level": 0}  # what is asked of the programs doesn't change by it


@pytest.fixture
def config(monkeypatch):
    """Of a model and a batch whose programs compile in seconds."""
    monkeypatch.setitem(RELEASED, "tiny", tiny.CONFIG)
    config = grpo_config.get_config()
    config.data.max_pixels = 56 * 56
    config.sampling.max_new_tokens = 16
    config.grpo.update(batch_size=4, num_samples=4)
    return config


def test_the_update_writes_over_the_state_that_it_consumes(config):
    one = memory.programs(config, tiny.CONFIG, make_mesh(fsdp=2), patches=16, prompt_tokens=36)
    compiled = one.update.lower(one.state, one.batch).compile(QUICK)
    assert compiled.memory_analysis().alias_size_in_bytes == memory.bytes_a_device(one.state)
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(one.state))
    assert whole / 2 < memory.bytes_a_device(one.state) < 0.6 * whole  # norms aren't split


def test_a_report_adds_up(config):
    report = memory.bench_memory(config, None, text_tokens=32)
    assert report["shape"] == {
        "prompts": 4, "prompt_tokens": 36, "patches": 16, "samples": 4, "new_tokens": 16,
        "micro_batches": 1,
    }  # fmt: skip
    parts = report["bytes_a_device"]
    params = sum(x.size for x in jax.tree.leaves(tiny.params()))
    assert parts["parameters"] == parts["reference"] == 4 * params
    assert 8 * params <= parts["optimizer"] < 8 * params + 100
    assert min(parts["temporaries"].values()) > 0
    assert parts["peak"] == (
        sum(parts[name] for name in ("parameters", "optimizer", "reference", "batch"))
        + max(parts["temporaries"].values())
    )
    text = tiny.CONFIG.text
    per_token = 2 * text.depth * text.kv_heads * text.head_size * 4
    assert parts["caches"] == per_token * (4 * 36 + 4 * 4 * 16)


def test_what_cannot_be_reported_is_an_error(config):
    with pytest.raises(UserError, match="--topology=v5e:9x9: expected a slice such as v5e:2x4"):
        memory.bench_memory(config, "v5e:9x9", 32)
    config.stages = ("sft",)
    with pytest.raises(UserError, match="expected grpo"):
        memory.bench_memory(config, None, 32)


def gradient_of_score(tokens, **fields):
    """The compiled gradient of `score` over prompts without pictures, of a deeper model."""
    sizes = dataclasses.replace(tiny.CONFIG, text=dataclasses.replace(tiny.CONFIG.text, depth=6))
    model, prompt = Qwen2VL(sizes, **fields), tiny.prompts(len(tokens))
    prompt = prompt.replace(patches=prompt.patches[:, :0])
    params = jax.eval_shape(model.init, jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda p: model.score(p, prompt, tokens).sum()))
    return gradient.lower(params).compile(QUICK)


def test_rematerialisation_keeps_what_its_name_says():
    """Everything, products with weights alone, or a layer's input alone."""
    tokens, _ = tiny.completions(3, 4, 96)
    none, dots, full = (
        gradient_of_score(tokens, remat=remat).memory_analysis().temp_size_in_bytes
        for remat in ("none", "dots", "full")
    )
    assert full < 0.7 * dots and dots < 0.8 * none


def largest_array_with(hlo: str, size: int) -> int:
    """Elements of the largest array in a program that has an axis of this size."""
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", hlo)
    sizes = [[int(n) for n in shape.split(",")] for shape in set(shapes)]
    return max((int(np.prod(shape)) for shape in sizes if size in shape), default=0)


@pytest.mark.parametrize("chunk", [96, 8])
def test_logits_exist_for_one_chunk_of_tokens_at_a_time(chunk):
    tokens, _ = tiny.completions(3, 4, 96)
    hlo = gradient_of_score(tokens, logit_chunk=chunk).as_text()
    vocabulary = tiny.CONFIG.text.vocab_size
    assert largest_array_with(hlo, vocabulary) == 3 * 4 * chunk * vocabulary
