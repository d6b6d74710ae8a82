"""Compilations are counted once each, by name."""

import jax
import numpy as np

from rrft_jax.monitoring import compilations


def test_every_new_shape_counts_once():
    @jax.jit
    def some_step(x):
        return x * 2

    compilations.listen()
    compilations.listen()
    before, of_all = compilations.total("some_step"), compilations.total()
    for size in (3, 4, 3, 4, 5):
        some_step(np.zeros(size))
    assert compilations.total("some_step") - before == 3
    assert compilations.total() - of_all >= 3
