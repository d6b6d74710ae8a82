"""Streams of batches: the completions of `generate`, in order, in fewer steps of the loop."""

import functools

import jax
import numpy as np
import pytest

from rrft_jax.models import prompt as prompts
from rrft_jax.models import table
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import GenerationConfig, SamplingParams, generate, stream
from tests import tiny

LENGTH, BATCH, GROUP = 12, 8, 2
STOPS = tuple(range(2, 8))
GREEDY, SAMPLED = SamplingParams(0.0), SamplingParams(1.0)


def batches() -> list:
    """Three batches of one shape, and one of another."""
    return [tiny.prompts(BATCH, 9 if seed < 3 else 12, seed) for seed in range(4)]


def config(sampling: SamplingParams) -> GenerationConfig:
    return GenerationConfig(
        num_generations=GROUP,
        max_new_tokens=LENGTH,
        stop_tokens=STOPS,
        sampling=sampling,
        pad_token=tiny.PAD,
        cache_chunk=8,
    )


@pytest.fixture(scope="module")
def want():
    """`want(sampling)`: the completions of every batch by itself."""

    @functools.cache
    def sampled(sampling: SamplingParams) -> list:
        model, params, key = tiny.model(), tiny.params(), jax.random.key(0)
        return [
            generate(model, params, prompt, key, config(sampling), BATCH * number).fetch()
            for number, prompt in enumerate(batches())
        ]

    return sampled


@pytest.fixture(autouse=True)
def together(monkeypatch):
    """As on an accelerator."""
    monkeypatch.setattr(stream, "batches_together", lambda: stream.BATCHES)


def streamed(sampling: SamplingParams, number: int, mesh: jax.sharding.Mesh) -> list:
    shardings = table.parameter_shardings(tiny.CONFIG, mesh)
    params = jax.tree.map(jax.device_put, tiny.params(), shardings)
    given = (
        (BATCH * i, sharding.shard(mesh, prompt, prompts.AXES))
        for i, prompt in enumerate(batches()[:number])
    )
    key, how = jax.random.key(0), config(sampling)
    return list(stream.complete(tiny.model(mesh=mesh), params, given, key, how))


def assert_same(got: list, want: list) -> None:
    assert len(got) == len(want)
    for own, other in zip(got, want):
        for name in ("tokens", "mask", "finished"):
            np.testing.assert_array_equal(getattr(own, name), getattr(other, name), name)
        for name in ("log_probs", "rollout_log_probs"):
            a, b = getattr(own, name), getattr(other, name)
            np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name)


def test_a_stream_gives_the_completions_of_batch_by_batch(want):
    lengths = np.concatenate([own.mask.sum(-1).ravel() for own in want(SAMPLED)])
    assert lengths.min() < 3 and lengths.max() == LENGTH  # rows become free early, caches grow
    for sampling in (GREEDY, SAMPLED):
        assert_same(streamed(sampling, 4, make_mesh()), want(sampling))


def test_a_mesh_changes_nothing(want):
    assert_same(streamed(SAMPLED, 3, make_mesh(fsdp=2, tensor=2)), want(SAMPLED)[:3])
