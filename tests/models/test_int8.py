"""A model in eight bits: what it keeps, what it scores, what it takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.models import VLM, int8, table
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.training import grpo
from rrft_jax.training import state as states
from tests import tiny


def test_a_weight_is_off_by_half_a_step_of_its_output_at_most():
    kernel = jax.random.normal(jax.random.key(0), (3, 40, 5)) * jnp.array([1e-3, 1, 1e3, 7, 0])
    params = {"language": {"layers": {"q": {"kernel": kernel, "bias": jnp.ones((3, 5))}}}}
    stored = int8.quantise(params, jnp.bfloat16)["language"]["layers"]["q"]
    assert stored["bias"].dtype == jnp.bfloat16
    whole, scale = stored["kernel"]["int8"], stored["kernel"]["scale"]
    assert whole.dtype == jnp.int8 and scale.shape == (3, 1, 5)
    step = np.abs(kernel).max(axis=1, keepdims=True) / 127
    assert (np.abs(whole * scale - kernel) <= 0.5001 * step).all()
    assert (np.abs(whole).max(axis=1) == 127)[:, :4].all()  # every output has all the steps


@pytest.mark.parametrize(
    ("axes", "config"),
    [
        ({}, tiny.CONFIG),
        ({"fsdp": 4, "tensor": 2}, tiny.CONFIG),
        ({"fsdp": 4, "tensor": 2}, tiny.DEEP),
    ],
    ids=["one device", "a mesh", "deepstack on a mesh"],
)
def test_scores_are_those_of_the_weights_made_whole(axes, config):
    mesh = make_mesh(**axes)
    model = tiny.model(config=config, mesh=mesh)
    shardings = table.parameter_shardings(config, mesh)
    params = jax.tree.map(jax.device_put, tiny.params(config), shardings)
    copy = states.frozen_copy(model, params, "int8")
    expected = states.abstract_copy(model, params, "int8")
    for got, want in zip(jax.tree.leaves(copy), jax.tree.leaves(expected)):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        assert got.sharding.is_equivalent_to(want.sharding, got.ndim)

    prompt, (tokens, _) = tiny.prompts(8), tiny.completions(8, 3, 6)
    by_hand = jax.tree.map(
        lambda x: np.asarray(x["int8"], np.float32) * x["scale"] if isinstance(x, dict) else x,
        copy,
        is_leaf=lambda x: isinstance(x, dict) and "int8" in x,
    )
    score = jax.jit(tiny.model(config=config).score)
    want = score(jax.device_get(by_hand), prompt, tokens)
    place = sharding.shard(mesh, (prompt, tokens), (grpo.prompts.AXES, "BGT"))
    got = grpo.make_scorer(model, 0)(copy, *place)
    np.testing.assert_allclose(got, want, atol=2e-5)
    original = score(tiny.params(config), prompt, tokens)
    assert 1e-4 < np.abs(got - original).mean() < 0.05


def test_no_more_than_a_layer_is_made_whole():
    prompt, (tokens, _) = tiny.prompts(1), tiny.completions(1, 1, 4)
    prompt = prompt.replace(patches=prompt.patches[:, :0])

    def temporaries(depth: int) -> int:
        text = dataclasses.replace(tiny.CONFIG.text, depth=depth, mlp_width=2048)
        model = VLM(dataclasses.replace(tiny.CONFIG, text=text))

        def quantised(key):
            return int8.quantise(model.init(key), jnp.float32)

        shapes = jax.eval_shape(quantised, jax.random.key(0))
        compiled = jax.jit(model.score).lower(shapes, prompt, tokens).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    layer = 3 * 32 * 2048 * 4
    assert temporaries(12) - temporaries(4) < layer / 2
