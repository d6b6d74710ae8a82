"""The sampler's programs are compiled before a batch needs them, and it needs no others."""

import time

import jax
import numpy as np
import pytest

from rrft_jax.models import prompt as prompts
from rrft_jax.models import table
from rrft_jax.monitoring import compilations
from rrft_jax.parallel import sharding
from rrft_jax.parallel.ahead import Ahead
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import GenerationConfig, generate, generation
from rrft_jax.rollout.lookahead import Lookahead
from tests import tiny

PROGRAMS = ("advance", "grow", "compact", "take_prompts", "finish")
# Batches that end at once, shrink in one cache or in several, or jump over a size.
AT_ONCE = np.ones((4, 2), int)
BUDGETS = ([[8, 7], [6, 5], [2, 1], [1, 1]], [[8, 1], [1, 1], [1, 1], [1, 2]], [[3, 3]] * 4)


def counts() -> dict[str, int]:
    return {name: compilations.total(f"jit({name})") for name in PROGRAMS}


@pytest.mark.parametrize("axes", [{"data": 1}, {"data": 2}], ids=["one device", "two devices"])
def test_no_program_is_missing_whatever_the_lengths(axes, monkeypatch):
    monkeypatch.setattr(generation, "COARSE", (1, 1, 2))  # sizes 8, 4, 2, or 4, 2 on each device
    compilations.listen()
    mesh = make_mesh(**axes, devices=jax.devices()[: axes["data"]])
    shardings = table.parameter_shardings(tiny.CONFIG, mesh)
    params = jax.tree.map(jax.device_put, tiny.params(), shardings)
    prompt = sharding.shard(mesh, tiny.prompts(4), prompts.AXES)
    threads = Ahead()

    def run(budget, lookahead=None):
        config = GenerationConfig(
            8, (), 2, cache_chunk=4, budget=np.asarray(budget), lookahead=lookahead
        )
        out = generate(tiny.model(mesh=mesh), params, prompt, jax.random.key(0), config)
        return jax.device_get((out.tokens, out.mask))

    before = counts()
    run(AT_ONCE, Lookahead(threads))
    while not all(job.done() for job in list(threads._jobs.values())):
        time.sleep(0.02)
    assert all(job.exception() is None for job in threads._jobs.values())
    compiled = counts()
    assert compiled["advance"] - before["advance"] >= 4 and compiled["grow"] > before["grow"]
    got = [run(budget, Lookahead(threads)) for budget in BUDGETS]
    assert counts() == compiled
    for budget, out in zip(BUDGETS, got):
        jax.tree.map(np.testing.assert_array_equal, out, run(budget))
        np.testing.assert_array_equal(out[1].sum(-1), budget)
