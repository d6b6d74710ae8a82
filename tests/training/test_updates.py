"""GRPO's update in parts: micro-batches change nothing, mini-batches are updates of their own.

The policy is a table of bigrams: which parts a batch is cut into has nothing to do with the model.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import grpo as program
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.training import grpo, loss, objectives
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from tests import tiny
from tests.minibatches import minibatch

B, G, T = 8, 4, 6
# Adam's first steps would blow rounding up to the size of an update, but for a large epsilon.
HYPER = program.get_config().grpo.to_dict()
HYPER |= {"micro_batches": 1, "learning_rate": 1e-2, "eps": 1e-3}


@dataclasses.dataclass(frozen=True)
class Bigrams:
    """A policy in which a token's distribution depends on the token before."""

    mesh = lora = None

    def score_with_entropy(self, params, prompt, completions):
        first = jnp.broadcast_to(prompt.tokens[:, -1:, None], (*completions.shape[:2], 1))
        before = jnp.concatenate([first, completions[..., :-1]], axis=-1)
        log_probs = jax.nn.log_softmax(params["table"][before])
        taken = jnp.take_along_axis(log_probs, completions[..., None], axis=-1)[..., 0]
        return taken, -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)

    def score(self, params, prompt, completions):
        return self.score_with_entropy(params, prompt, completions)[0]


def batch_of(mesh):
    tokens, mask = tiny.completions(B, G, T)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, B, G, T)).astype(np.float32)
    prompt = tiny.prompts(B)
    log_probs = np.asarray(Bigrams().score(table(), prompt, tokens))
    finished = rng.random((B, G)) < 0.7
    batch = minibatch(
        tokens,
        mask,
        objectives.group_std_advantages(rng.normal(size=(B, G)).astype(np.float32)),
        prompt=prompt,
        finished=finished,
        rollout=log_probs + 0.1 * noise[0],
        old=log_probs,
        reference=log_probs + 0.3 * noise[1],
    )
    return sharding.shard(mesh, batch, loss.axes(batch))


def table():
    table = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    return {"table": jax.device_put(table, sharding.replicated(make_mesh()))}


def updated(config, batches, parts=(0,), longest=None):
    """The table after an update on each part of each batch, and the metrics of each update."""
    config = ml_collections.ConfigDict({**HYPER, **config})
    optimizer = optimizers.make_optimizer(config, 100)
    state = states.create(table(), optimizer, "", make_mesh())
    layout = states.layout(state)
    step = grpo.make_update(Bigrams(), optimizer, config, layout, max_new_tokens=longest)
    metrics = []
    for batch in batches:
        for part in parts:
            state, values = step(state, batch, part)
            metrics.append(jax.device_get(values))
    assert state.step == len(metrics)
    return np.asarray(state.params["table"]), metrics


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("aggregation", objectives.AGGREGATIONS)
def test_any_number_of_micro_batches_gives_the_same_parameters(aggregation, truncated):
    batch = batch_of(make_mesh())
    config = {"aggregation": aggregation, "mask_truncated": truncated, "clip_norm": 1e9}
    whole, (metrics,) = updated(config, [batch])
    assert np.abs(whole - table()["table"]).max() > 1e-4
    for number in (0, 2, 4):
        parts, (of_parts,) = updated({**config, "micro_batches": number}, [batch])
        np.testing.assert_allclose(parts, whole, atol=1e-6)
        for name, value in metrics.items():
            assert of_parts[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("aggregation", objectives.AGGREGATIONS)
def test_places_after_the_end_of_all_completions_change_nothing(aggregation):
    config = {"aggregation": aggregation, "importance_sampling": "sequence"}
    batch = jax.device_get(batch_of(make_mesh()))
    ended = batch.rollouts.mask & (np.arange(T) < T // 2)
    batch = batch.replace(rollouts=batch.rollouts.replace(mask=ended))
    scores = jax.tree.map(lambda x: x[..., : T // 2], batch.scores)
    short = batch.replace(rollouts=batch.rollouts.cut(T // 2), scores=scores)
    assert short.rollouts.tokens.shape == (B, G, T // 2)
    whole, (metrics,) = updated(config, [batch])
    cut, (of_cut,) = updated(config, [short], longest=T)
    np.testing.assert_allclose(cut, whole, atol=1e-6)
    for name, value in metrics.items():
        assert of_cut[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_a_mini_batch_is_an_update_as_if_it_were_all():
    batch = batch_of(make_mesh())
    parts, metrics = updated({"mini_batches": 2, "micro_batches": 2}, [batch], parts=(0, 1))
    halves = sharding.micro_batches(batch, loss.axes(batch), 2)
    halves = [jax.tree.map(lambda x, i=i: x[i], halves) for i in (0, 1)]
    expected, of_halves = updated({}, halves)
    np.testing.assert_allclose(parts, expected, atol=1e-6)
    for got, want in zip(metrics, of_halves):
        assert got["loss"] == pytest.approx(want["loss"], rel=1e-4, abs=1e-6)


def test_a_second_pass_counts_from_the_policy_that_sampled():
    """So its ratios are no longer 1, and some are clipped."""
    batch = batch_of(make_mesh())
    _, (first, second) = updated({"learning_rate": 0.5}, [batch, batch])
    assert first["clip_fraction"] == 0 < second["clip_fraction"]
    assert first["mismatch_kl"] == pytest.approx(second["mismatch_kl"])


def test_an_update_says_whether_all_weights_are_numbers_after_it():
    """Those of a finite loss and gradient may still be none."""
    mesh = make_mesh()
    for start, finite in ((0.0, True), (2e38, False)):
        config = ml_collections.ConfigDict({**HYPER, "learning_rate": 3e38})
        params = {"a": jnp.ones(2), "b": jnp.array([1.0, start])}
        params = jax.device_put(params, sharding.replicated(mesh))
        optimizer = optimizers.make_optimizer(config, 100)
        state = states.create(params, optimizer, "", mesh)
        _, metrics = states.update(
            state, optimizer, "", lambda p, x: (-x * p["b"].sum(), {}), jnp.full(1, 1e-2)
        )
        assert np.isfinite([metrics["loss"], metrics["gradient_norm"]]).all()
        assert metrics["finite_weights"] == finite
