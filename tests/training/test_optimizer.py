"""The optimizer's moments and the reference's weights in fewer bytes."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import common
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from tests import tiny

HYPER = common.adamw(learning_rate=1e-2, schedule="linear", warmup_steps=0, weight_decay=0.0)


def train(moment_dtype: str) -> tuple[dict, dict]:
    """40 steps on a bowl with a steep and a flat side: (parameters, {dtype: moments})."""
    config = ml_collections.ConfigDict({**HYPER, "moment_dtype": moment_dtype})
    optimizer = optimizers.make_optimizer(config, 1000)
    params = {"kernel": jnp.linspace(-1, 1, 64)}
    steep = jnp.linspace(0.1, 10, 64)
    state = optimizer.init(params)
    for _ in range(40):
        grads = jax.grad(lambda p: jnp.sum(steep * (p["kernel"] - 0.5) ** 2))(params)
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    dtypes = [x.dtype.name for x in jax.tree.leaves(state) if x.ndim]
    return params, dtypes


def test_a_bfloat16_first_moment_takes_nearly_the_same_steps():
    (want, full), (got, half) = train("float32"), train("bfloat16")
    assert sorted(full) == ["float32", "float32"] and sorted(half) == ["bfloat16", "float32"]
    start = np.linspace(-1, 1, 64)
    moved = np.abs(want["kernel"] - start)
    assert moved.max() > 0.2
    difference = np.abs(want["kernel"] - got["kernel"])
    assert 0 < difference.max() < 0.02 * moved.max()


def test_an_abstract_state_is_what_a_real_one_looks_like():
    mesh, params = make_mesh(), tiny.params()
    optimizer = optimizers.make_optimizer(HYPER, 10)
    real = states.create(params, optimizer, "vision/.*", mesh)
    abstract = states.abstract(params, optimizer, "vision/.*", mesh)
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    for a, b in zip(jax.tree.leaves(real), jax.tree.leaves(abstract)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_frozen_copy_outlives_its_original(dtype):
    params = {"kernel": jnp.ones((8, 8))}
    copy = states.frozen_copy(params, dtype)
    params["kernel"].delete()
    assert copy["kernel"].dtype == dtype and float(copy["kernel"].sum()) == 64


def test_a_bfloat16_reference_scores_as_its_float32_original_does_in_bfloat16():
    model = tiny.model(dtype=jnp.bfloat16)
    prompt, (tokens, _) = tiny.prompts(2), tiny.completions(2, 3, 6)
    score = jax.jit(model.score)
    # Numbers that bfloat16 holds, as a released checkpoint's are.
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), tiny.params())
    want = score(params, prompt, tokens)
    got = score(states.frozen_copy(params, "bfloat16"), prompt, tokens)
    np.testing.assert_array_equal(got, want)
