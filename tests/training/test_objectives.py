"""Each term of the objective against its own computation in NumPy, and known values."""

import jax
import numpy as np
import pytest

from rrft_jax.training import objectives


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    shape = (3, 4, 6)
    new, old, reference = (-rng.exponential(size=shape).astype(np.float32) for _ in range(3))
    lengths = rng.integers(1, 7, shape[:2])
    mask = np.arange(6) < lengths[..., None]
    return new, old, reference, mask, rng.normal(size=shape[:2]).astype(np.float32)


def test_advantages_are_rewards_in_standard_deviations_of_their_group():
    rewards = np.array([[1.0, 2.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    got = objectives.group_advantages(rewards)
    std = np.std(rewards[0], ddof=1)
    np.testing.assert_allclose(got[0], (rewards[0] - 1.0) / (std + 1e-4), rtol=1e-6)
    np.testing.assert_array_equal(got[1], 0)  # all alike: nothing to learn


def test_clipped_objective_equals_numpy(arrays):
    new, old, _, _, advantages = arrays
    got, clipped = objectives.clipped_objective(new, old, advantages, 0.2, 0.3)
    for index in np.ndindex(new.shape):
        ratio, advantage = np.exp(new[index] - old[index]), advantages[index[:2]]
        plain, bounded = ratio * advantage, min(max(ratio, 0.8), 1.3) * advantage
        assert got[index] == pytest.approx(min(plain, bounded), rel=1e-5)
        assert bool(clipped[index]) == (bounded < plain)


def test_ratio_passes_no_gradient_where_it_is_clipped():
    def total(new):
        return objectives.clipped_objective(new, old, advantages, 0.2, 0.2)[0].sum()

    old = np.zeros((1, 2, 1), np.float32)
    new = np.full((1, 2, 1), 0.5, np.float32)  # ratio 1.65
    advantages = np.array([[1.0, -1.0]], np.float32)
    gradient = jax.grad(total)(new)
    assert gradient[0, 0, 0] == 0  # it may not gain more
    assert gradient[0, 1, 0] == pytest.approx(-np.exp(0.5))  # but it may lose


def test_k3_equals_numpy_and_is_never_negative(arrays):
    new, _, reference, _, _ = arrays
    got = np.asarray(objectives.k3(new, reference))
    np.testing.assert_allclose(
        got, np.exp(reference - new) - (reference - new) - 1, rtol=1e-4, atol=1e-6
    )
    assert (got >= -1e-6).all() and objectives.k3(new, new).sum() == 0


def test_weights_average_over_tokens_and_then_over_completions(arrays):
    new, _, _, mask, _ = arrays
    got = np.sum(new * objectives.sequence_weights(mask))
    means = [new[i][mask[i]].mean() for i in np.ndindex(mask.shape[:2])]
    assert got == pytest.approx(np.mean(means), rel=1e-5)
