"""The lengths that the sampler's benchmark forces."""

import pytest

from rrft_jax.bench.sampler import long_tail


def test_a_long_tail_has_the_mean_and_the_maximum_that_it_is_named_by():
    lengths = long_tail(14, 8, 128, 512, seed=0)
    assert lengths.shape == (14, 8) and lengths.min() >= 1 and lengths.max() == 512
    assert lengths.mean() == pytest.approx(128, abs=0.5)
    # A constant chance to stop: half are done at ln 2 of the mean, an eighth goes past two of it.
    assert 0.45 < (lengths < 89).mean() < 0.55 and 0.1 < (lengths > 256).mean() < 0.16
