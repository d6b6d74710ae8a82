"""The optimizer's moments and the reference's weights in fewer bytes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.settings import GRPOSettings
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from tests import tiny

HYPER = GRPOSettings(learning_rate=1e-2)


def train(moment_dtype: str) -> tuple[dict, dict]:
    """40 steps on a bowl with a steep and a flat side: (parameters, {dtype: moments})."""
    config = dataclasses.replace(HYPER, moment_dtype=moment_dtype)
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


def test_bfloat16_moments_take_nearly_the_same_steps():
    (want, full), (got, half) = train("float32"), train("bfloat16")
    assert full == ["float32"] * 2 and half == ["bfloat16"] * 2
    start = np.linspace(-1, 1, 64)
    moved = np.abs(want["kernel"] - start)
    assert moved.max() > 0.2
    difference = np.abs(want["kernel"] - got["kernel"])
    assert 0 < difference.max() < 0.02 * moved.max()


def test_float32_moments_are_those_of_optax():
    grads = {"kernel": jax.random.normal(jax.random.key(1), (20, 8))}
    own, reference = optimizers.scale_by_adam(0.9, 0.999, 1e-8, jnp.float32), optax.scale_by_adam()
    got, want = (
        own.init({"kernel": grads["kernel"][0]}),
        reference.init({"kernel": grads["kernel"][0]}),
    )
    for step in range(20):
        gradient = {"kernel": grads["kernel"][step]}
        updates, got = own.update(gradient, got)
        expected, want = reference.update(gradient, want)
        np.testing.assert_array_equal(updates["kernel"], expected["kernel"])


def test_a_bfloat16_second_moment_forgets_as_float32_does():
    """To the nearest number it wouldn't at all: a step takes a thousandth off."""
    optimizer = optimizers.scale_by_adam(0.9, 0.999, 1e-8, jnp.bfloat16)

    @jax.jit
    def forget(state, zeros):
        return jax.lax.fori_loop(0, 700, lambda _, s: optimizer.update(zeros, s)[1], state)

    left = []
    for mesh in (make_mesh(), make_mesh(fsdp=8)):
        zeros = jax.device_put(jnp.zeros(4096), NamedSharding(mesh, PartitionSpec("fsdp")))
        state = optimizer.init({"kernel": zeros})
        state = state._replace(nu={"kernel": jnp.ones_like(state.nu["kernel"])})
        left.append(np.asarray(forget(state, {"kernel": zeros}).nu["kernel"], np.float32))
    assert 0.99 < left[0].mean() / 0.999**700 < 1.01
    assert left[0].std() / left[0].mean() < 0.07  # noise: half of that in the size of a step
    np.testing.assert_array_equal(*left)  # the draws don't depend on the mesh


def test_what_bfloat16_holds_is_never_rounded():
    x = jnp.array([0.0, 1.0, 1.5, 2**-100, jnp.inf])
    for seed in range(8):
        rounded = optimizers.round_at_random(jax.random.key(seed), x)
        np.testing.assert_array_equal(rounded.astype(jnp.float32), x)


def test_an_abstract_state_is_what_a_real_one_looks_like():
    mesh, params = make_mesh(), tiny.params()
    optimizer = optimizers.make_optimizer(HYPER, 10)
    real = states.create(params, optimizer, "vision/.*", mesh)
    abstract = states.abstract(params, optimizer, "vision/.*", mesh)
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    for a, b in zip(jax.tree.leaves(real), jax.tree.leaves(abstract)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_frozen_copy_outlives_its_original(dtype):
    params = {"kernel": jnp.ones((8, 8))}
    copy = states.frozen_copy(tiny.model(dtype=dtype), params, "")
    params["kernel"].delete()
    assert copy["kernel"].dtype == dtype and float(copy["kernel"].sum()) == 64


def test_a_bfloat16_reference_scores_as_its_float32_original_does_in_bfloat16():
    model = tiny.model(dtype=jnp.bfloat16)
    prompt, (tokens, _) = tiny.prompts(2), tiny.completions(2, 3, 6)
    score = jax.jit(model.score)
    # Numbers that bfloat16 holds, as a released checkpoint's are.
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), tiny.params())
    want = score(params, prompt, tokens)
    got = score(states.frozen_copy(model, params, ""), prompt, tokens)
    np.testing.assert_array_equal(got, want)


def test_bfloat16_parameters_move_by_less_than_they_can_tell():
    """1e-5 a step on weights that are 0.008 apart: to the nearest number none would move."""
    updates = {"kernel": jnp.full(8192, 1e-5)}
    step = jax.jit(lambda params, n: optimizers.apply_updates(params, updates, n))
    moved = []
    for mesh in (make_mesh(), make_mesh(fsdp=8)):
        where = NamedSharding(mesh, PartitionSpec("fsdp"))
        params = {"kernel": jax.device_put(jnp.ones(8192, jnp.bfloat16), where)}
        for n in range(100):
            params = step(params, jnp.asarray(n))
        moved.append(np.asarray(params["kernel"], np.float32) - 1)
    assert params["kernel"].dtype == jnp.bfloat16
    assert 0.8e-3 < moved[0].mean() < 1.2e-3
    np.testing.assert_array_equal(*moved)  # the draws don't depend on the mesh
    whole = {"kernel": jnp.ones(8192)}
    np.testing.assert_array_equal(
        optimizers.apply_updates(whole, updates, 0)["kernel"], 1 + updates["kernel"]
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_step_says_whether_it_may_have_changed_a_parameter_and_whether_all_are_numbers(dtype):
    """Not without a signal, and not at a rate of 0, with which a warm-up begins."""
    grads = {"a/kernel": jnp.zeros((2, 3)), "b/bias": jnp.array([0.0, 0.1, 0.0])}
    for rate, start, signal, moves, finite in (
        (0.1, 1.0, True, True, True),
        (0.1, 1.0, False, False, True),
        (0.0, 1.0, True, False, True),
        (3e38, -2e38, True, True, False),
        (3e38, -2e38, False, False, True),
    ):
        params = {"a/kernel": jnp.ones((2, 3), dtype), "b/bias": jnp.full(3, start, dtype)}
        optimizer = optax.chain(
            optimizers.scale_by_adam(0.9, 0.999, 1e-8, jnp.float32), optax.scale(-rate)
        )
        new, _, *found = optimizers.step(
            optimizer, grads, optimizer.init(params), params, jnp.array(0), jnp.array(signal)
        )
        assert found == [moves, finite]
        assert moves == any((new[name] != params[name]).any() for name in params)
        assert finite == all(jnp.isfinite(x).all() for x in new.values())
