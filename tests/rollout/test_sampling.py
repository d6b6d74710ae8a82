"""Which tokens can be drawn, how often, and the log-probabilities that are said of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import sampling
from rrft_jax.rollout.sampling import EXCLUDED, SamplingParams, sample

LOGITS = np.log([0.4, 0.3, 0.15, 0.1, 0.05])
compiled = jax.jit(sample)


def distribution(logits, temperature=1.0, top_k=0, top_p=1.0) -> np.ndarray:
    """The probabilities [V] in NumPy, token by token."""
    p = np.exp(np.float64(logits) / temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    if top_k:
        p[order[top_k:]] = 0
        p /= p.sum()
    total = 0.0
    for place, token in enumerate(order):
        if place and total >= top_p:
            p[token] = 0
        total += p[token]
    return p / p.sum()


def draws(logits=LOGITS, number=2_000, **params):
    """Draws at evenly spaced numbers: frequencies are then right to 1 / number."""
    uniform = (jnp.arange(number) + 0.5) / number
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (number, len(logits)))
    tokens, log_probs = compiled(uniform, rows, SamplingParams(**params))
    return np.asarray(tokens), np.asarray(log_probs)


@pytest.mark.parametrize(
    "params, kept",
    [
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.39}, [0]),
        ({"top_p": 0.41}, [0, 1]),
        ({"top_p": 0.701}, [0, 1, 2]),
        ({"top_p": 1e-9}, [0]),  # never nothing
        # Top-k first: of what it leaves, 0.4 / 0.7 is below 0.6, so the second one stays.
        ({"top_k": 2, "top_p": 0.6}, [0, 1]),
        ({"top_k": 2, "top_p": 0.57}, [0]),
    ],
)
def test_truncation_keeps(params, kept):
    assert np.unique(draws(**params)[0]).tolist() == kept


@pytest.mark.parametrize("vocabulary", [300, 8_400], ids=["one sort", "blocks"])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 50},
        {"top_k": 50, "top_p": 0.9, "temperature": 0.9},
        {"top_k": 100, "top_p": 0.8},  # more than the candidates
        {"top_p": 0.5, "temperature": 1.3},
    ],
    ids=str,
)
def test_frequencies_and_log_probs_are_those_of_numpy(vocabulary, params):
    logits = 2 * np.random.default_rng(0).normal(size=vocabulary)
    tokens, log_probs = draws(logits, number=400, **params)
    want = distribution(logits, **params)
    np.testing.assert_allclose(log_probs, np.log(want[tokens]), atol=2e-5)
    frequencies = np.bincount(tokens, minlength=vocabulary) / 400
    assert np.abs(np.cumsum(frequencies) - np.cumsum(want)).max() < 2 / 400


@pytest.mark.parametrize("axes", [{"data": 8}, {"fsdp": 2, "tensor": 4}], ids=str)
@pytest.mark.parametrize("vocabulary", [300, 8_400])
def test_a_draw_is_the_same_on_every_mesh(axes, vocabulary):
    mesh = make_mesh(**axes)
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (64, vocabulary)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.3] = EXCLUDED
    logits[:8, vocabulary // 4 :] = EXCLUDED  # all that can be drawn lies on one device
    logits[8:16, : vocabulary // 2] = EXCLUDED
    uniform = rng.random(64).astype(np.float32)
    uniform[::5], uniform[1::5] = 0, np.nextafter(np.float32(1), np.float32(0))
    placed = jax.device_put(logits, sharding.sharding(mesh, "RV", logits.shape))
    meshed = jax.jit(functools.partial(sample, mesh=mesh))
    for params in ((1.0, 0, 1.0), (0.7, 5, 0.9), (1.0, 0, 0.8), (0.0, 0, 1.0)):
        want = compiled(uniform, logits, SamplingParams(*params))
        got = meshed(uniform, placed, SamplingParams(*params))
        assert (np.take_along_axis(logits, np.asarray(got[0])[:, None], 1) > EXCLUDED).all()
        inner = uniform < 0.9999  # what lies beyond that is a matter of rounding
        np.testing.assert_array_equal(got[0][inner], want[0][inner])
        np.testing.assert_allclose(got[1][inner], want[1][inner], atol=1e-5)


def test_temperature_zero_takes_the_first_of_the_likeliest():
    logits = np.array([0.0, 3.0, 1.0, 3.0])
    tokens, log_probs = draws(logits, number=10, temperature=0.0, top_k=3)
    assert (tokens == 1).all() and (log_probs == np.float32(-np.log(2))).all()
    tokens, log_probs = draws(number=10, temperature=0.0)
    assert (tokens == 0).all() and (log_probs == 0).all()


def test_excluded_tokens_are_never_drawn():
    logits = np.where(np.arange(400) % 3 > 0, 0.0, EXCLUDED)
    for params in ({"temperature": 5.0}, {"top_k": 64}, {"top_p": 0.99}, {"temperature": 0.01}):
        assert (draws(logits, **params)[0] % 3 > 0).all()


def test_the_ends_of_the_distribution_can_be_drawn_and_nothing_behind_them():
    """At numbers next to 0 and 1, where sums that are rounded differently meet."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(500, 1000)).astype(np.float32)
    logits[:, :7] = logits[:, 900:] = EXCLUDED
    ends = jnp.tile(jnp.array([0.0, np.nextafter(np.float32(1), np.float32(0))]), 250)
    tokens, log_probs = compiled(ends, logits, SamplingParams())
    assert (np.asarray(tokens)[::2] == 7).all() and (np.asarray(tokens)[1::2] < 900).all()
    assert np.isfinite(log_probs).all() and (np.asarray(log_probs) > -30).all()


def test_what_is_cut_off_is_never_found_between_what_is_kept():
    """At all edges of 50 blocks with weight among 1187, whose cumulative sums needn't grow."""
    rng = np.random.default_rng(5)
    weights = np.zeros(1187, np.float32)
    kept = np.sort(rng.choice(len(weights), 50, replace=False))
    weights[kept] = np.exp(rng.normal(0, 2.5, 50))
    edges = np.round(np.cumsum(weights[kept]) / weights.sum() * 2**23)
    uniform = np.clip(edges[:, None] + np.arange(-9, 10), 0, 2**23 - 1).ravel() / 2**23
    rows = jnp.broadcast_to(weights, (len(uniform), len(weights)))
    index, _ = jax.jit(sampling._find)(jnp.float32(uniform) * rows.sum(-1), rows)
    assert (weights[index] > 0).all()


def test_the_largest_are_found_in_blocks_as_by_a_sort():
    logits = np.random.default_rng(0).normal(size=(20, 9999)).astype(np.float32)
    np.testing.assert_array_equal(sampling._largest(logits, 64), -np.sort(-logits)[:, :64])


def test_changing_the_parameters_compiles_nothing_again():
    fresh = jax.jit(lambda *arguments: sample(*arguments))
    for params in ((1.0, 0, 1.0), (0.5, 3, 0.9), (0.0, 0, 1.0), (1.0, 0, 0.5)):
        fresh(jnp.zeros(3), jnp.zeros((3, 5)), SamplingParams(*map(jnp.asarray, params)))
    assert fresh._cache_size() == 1


def test_nothing_is_sorted_where_truncation_is_off():
    """Every sort stands in a branch, and the branch that truncates nothing has none."""
    jaxpr = jax.make_jaxpr(sample)(jnp.zeros(3), jnp.zeros((3, 9999)), SamplingParams(1.0, 0, 1.0))
    outside = [e.primitive.name for e in jaxpr.eqns]
    branches = next(e for e in jaxpr.eqns if e.primitive.name == "cond").params["branches"]
    sorts = ["sort" in str(branch) or "top_k" in str(branch) for branch in branches]
    assert sorts == [False, True, True] and not {"sort", "top_k"} & set(outside)
