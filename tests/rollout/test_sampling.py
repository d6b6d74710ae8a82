"""Which tokens can be drawn, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.rollout.sampling import EXCLUDED, SamplingParams, sample, truncate

LOGITS = jnp.log(jnp.array([0.4, 0.3, 0.15, 0.1, 0.05]))


def kept(**params) -> list[int]:
    return np.flatnonzero(truncate(LOGITS, SamplingParams(**params)) > EXCLUDED).tolist()


@pytest.mark.parametrize(
    "params, want",
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
def test_truncation_keeps(params, want):
    assert kept(**params) == want


def draws(number=20_000, **params) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), number)
    logits = jnp.broadcast_to(LOGITS, (number, 5))
    tokens = jax.jit(sample)(keys, logits, SamplingParams(**params))
    return np.bincount(tokens, minlength=5) / number


def test_frequencies_are_the_probabilities():
    np.testing.assert_allclose(draws(), np.exp(LOGITS), atol=0.015)


def test_temperature_sharpens():
    want = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    np.testing.assert_allclose(draws(temperature=0.5), want, atol=0.015)


def test_temperature_zero_is_greedy():
    assert draws(temperature=0.0)[0] == 1


def test_changing_the_parameters_compiles_nothing_again():
    compiled = jax.jit(lambda *arguments: sample(*arguments))
    keys = jax.random.split(jax.random.key(0), 3)
    logits = jnp.broadcast_to(LOGITS, (3, 5))
    for params in ((1.0, 0, 1.0), (0.5, 3, 0.9), (0.0, 0, 1.0)):
        compiled(keys, logits, SamplingParams(*map(jnp.asarray, params)))
    assert compiled._cache_size() == 1


def test_excluded_tokens_are_never_drawn():
    keys = jax.random.split(jax.random.key(0), 2000)
    logits = jnp.broadcast_to(LOGITS.at[0].set(EXCLUDED), (2000, 5))
    assert 0 not in np.asarray(sample(keys, logits, SamplingParams(temperature=5.0)))
