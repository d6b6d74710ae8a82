"""Rounding is never a step: weights stay where rewards are flat and the policy is the reference."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from rrft_jax.models import table
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.training import grpo, loss, objectives
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from tests import tiny
from tests.minibatches import minibatch
from tests.training import test_updates as updates

B, G = 4, 3
SETTINGS = {"learning_rate": 1e-2, "weight_decay": 0.1, "beta": 0.04, "eps": 1e-8}


def flat_batch(mesh):
    """Completions whose rewards are all the same."""
    tokens, mask = tiny.completions(B, G, 6)
    advantages = objectives.group_std_advantages(np.full((B, G), 0.7, np.float32))
    batch = minibatch(tokens, mask, advantages, prompt=tiny.prompts(B))
    return sharding.shard(mesh, batch, loss.axes(batch))


@pytest.mark.parametrize(
    "dtype, reference_dtype, axes, micro_batches",
    [
        (jnp.float32, "", {"data": 1}, 1),
        (jnp.bfloat16, "int8", {"data": 2, "fsdp": 2}, 2),
    ],
    ids=["float32", "bfloat16 in micro-batches on four devices, an int8 reference"],
)
def test_weights_stay_where_the_policy_is_the_reference(
    dtype, reference_dtype, axes, micro_batches
):
    mesh = make_mesh(**axes)
    model = tiny.model(mesh=mesh, dtype=dtype)
    shardings = table.parameter_shardings(tiny.CONFIG, mesh)
    params = jax.tree.map(lambda x, s: jax.device_put(np.asarray(x), s), tiny.params(), shardings)
    reference = states.frozen_copy(model, params, reference_dtype)
    config = ml_collections.ConfigDict(
        updates.HYPER | SETTINGS | {"micro_batches": micro_batches, "freeze": ""}
    )
    optimizer = optimizers.make_optimizer(config, 100)
    state = states.create(params, optimizer, "", mesh)
    step = grpo.make_update(model, optimizer, config, states.layout(state))
    batch = flat_batch(mesh)
    before = jax.device_get(state.params)
    log_probs = grpo.make_scorer(model, 1)(reference, batch.rollouts.prompt, batch.rollouts.tokens)
    batch = batch.replace(scores=loss.Scores(reference=log_probs))
    for _ in range(2):
        state, metrics = step(state, batch)
        assert metrics["kl"] == metrics["loss"] == metrics["gradient_norm"] == 0
        assert metrics["skipped_updates"] == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), before)
    assert state.step == 2 and not state.moved


def run(config, batches):
    """A table of bigrams after a step on each batch: (tables, states, metrics)."""
    config = ml_collections.ConfigDict(updates.HYPER | SETTINGS | config)
    optimizer = optimizers.make_optimizer(config, 100)
    state = states.create(updates.table(), optimizer, "", make_mesh())
    step = grpo.make_update(updates.Bigrams(), optimizer, config, states.layout(state))
    tables, opt_states, metrics = [np.asarray(state.params["table"])], [], []
    for batch in batches:
        state, values = step(state, batch)
        tables.append(np.asarray(state.params["table"]))
        opt_states.append(jax.device_get(state.opt_state))
        metrics.append(jax.device_get(values))
    return tables, opt_states, metrics


def bigram_batches():
    """(with different rewards, with equal ones), whose references are the policy up to noise."""
    batch = updates.batch_of(make_mesh())
    old = batch.scores.old
    noise = 1e-2 * np.random.default_rng(3).normal(size=old.shape).astype(np.float32)
    batch = batch.replace(scores=loss.Scores(old, old + noise))
    return batch, batch.replace(advantages=jnp.zeros_like(batch.advantages))


@pytest.mark.parametrize("kl", objectives.KLS)
def test_the_first_update_that_has_a_signal_is_the_first_update_at_all(kl):
    """As if the batches without one had never been; but for the schedule, which counts steps."""
    signal, flat = bigram_batches()
    config = {"kl": kl, "warmup_steps": 0, "schedule": "linear"}
    tables, opt_states, metrics = run(config, [flat, flat, signal])
    np.testing.assert_array_equal(tables[2], tables[0])
    assert [m["skipped_updates"] for m in metrics] == [1, 1, 0]
    assert np.abs(tables[3] - tables[2]).max() > 1e-4
    (_, alone), (expected,), _ = run(config, [signal])
    for name in ("mu", "nu", "count"):
        got, want = (getattr(s[1], name) for s in (opt_states[-1], expected))
        jax.tree.map(np.testing.assert_array_equal, got, want)
    moved, would = tables[3] - tables[0], alone - tables[0]
    np.testing.assert_allclose(moved, 0.98 * would, rtol=1e-3, atol=1e-7)  # of 100 steps the third


def test_a_step_at_a_learning_rate_of_0_does_not_move_the_policy():
    """As the first of a warm-up: behind it the policy is still the reference."""
    signal, flat = bigram_batches()
    tables, _, metrics = run({"warmup_steps": 10}, [signal, flat, signal, flat])
    np.testing.assert_array_equal(tables[2], tables[0])
    assert [m["skipped_updates"] for m in metrics] == [0, 1, 0, 0]
    assert [m["kl"] > 0 for m in metrics] == [False, False, False, True]


def test_a_policy_that_has_moved_is_pulled_back_where_rewards_are_flat():
    signal, flat = bigram_batches()
    tables, _, metrics = run({"beta": 1.0}, [signal, flat])
    assert metrics[0]["kl"] == 0 < metrics[1]["kl"] and metrics[1]["skipped_updates"] == 0
    assert np.abs(tables[2] - tables[1]).max() > 1e-4


def test_nothing_moves_without_a_signal_by_momentum_or_decay_either():
    signal, flat = bigram_batches()
    signal, flat = (batch.replace(scores=loss.Scores(batch.scores.old)) for batch in (signal, flat))
    tables, opt_states, metrics = run({"beta": 0.0}, [signal, flat])
    assert metrics[1]["skipped_updates"] == 1
    np.testing.assert_array_equal(tables[2], tables[1])
    jax.tree.map(np.testing.assert_array_equal, opt_states[1][1], opt_states[0][1])
    assert opt_states[1][3].count == 2  # of the schedule


@pytest.mark.parametrize("kind", objectives.ADVANTAGES)
def test_rewards_that_are_equal_but_for_rounding_have_no_advantages(kind):
    """0.3 + 0.4 - 0.7 isn't 0 in float32, and the mean of eight times 0.7 isn't 0.7."""
    rounded = np.float32(0.3) + np.float32(0.4) - np.float32(0.7)
    assert rounded != 0
    rewards = np.array(
        [
            [0.7] * 8,
            [1e4 + 0.1] * 8,
            [0.0, rounded] * 4,
            [0.9, np.float32(0.3) + np.float32(0.6)] * 4,
            [1 / 3] * 7 + [np.nextafter(np.float32(1 / 3), np.float32(1))],
            [0.0] * 7 + [1.0],
        ],
        np.float32,
    )
    np.testing.assert_array_equal(objectives.is_flat(rewards), [True] * 5 + [False])
    for array in (rewards, jnp.asarray(rewards)):
        advantages = np.asarray(objectives.ADVANTAGES[kind](array))
        np.testing.assert_array_equal(advantages[:-1], 0)
        assert (advantages[-1] != 0).all()
