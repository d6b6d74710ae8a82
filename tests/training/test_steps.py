"""SFT and GRPO steps: what is trained, what is not, and the same numbers however they are split."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import grpo as program
from rrft_jax.errors import UserError
from rrft_jax.models import table
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.training import grpo, loss, objectives, sft
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from tests import tiny
from tests.minibatches import minibatch

BATCH = 8
HYPER = ml_collections.ConfigDict(
    {
        **program.get_config().grpo.to_dict(),
        "learning_rate": 1e-2,
        "schedule": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "moment_dtype": "float32",
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-3,  # Adam's first steps would blow rounding up to the size of an update
        "freeze": "",
    }
)


def start(mesh, freeze=""):
    """A fresh state on the mesh, its model and its optimizer."""
    model = tiny.model(mesh=mesh)
    shardings = table.parameter_shardings(tiny.CONFIG, mesh)
    params = jax.tree.map(lambda x, s: jax.device_put(np.asarray(x), s), tiny.params(), shardings)
    optimizer = optimizers.make_optimizer(HYPER, 100)
    return model, optimizer, states.create(params, optimizer, freeze, mesh)


def sft_step(mesh, freeze="", micro_batches=1, steps=1):
    model, optimizer, state = start(mesh, freeze)
    step = sft.make_step(model, optimizer, freeze, micro_batches, states.layout(state))
    tokens, mask = tiny.completions(BATCH, 1, 6)
    batch = sharding.shard(mesh, sft.SFTBatch(tiny.prompts(BATCH), tokens, mask), sft.AXES)
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, jax.device_get(metrics)


def grpo_step(mesh, micro_batches=1):
    model, optimizer, state = start(mesh)
    config = ml_collections.ConfigDict({**HYPER, "micro_batches": micro_batches})
    step = grpo.make_update(model, optimizer, config, states.layout(state))
    tokens, mask = tiny.completions(BATCH, 4, 6)
    rewards = np.random.default_rng(0).integers(0, 3, (BATCH, 4)).astype(np.float32)
    prompt = tiny.prompts(BATCH)
    score = grpo.make_scorer(model, micro_batches)
    batch = minibatch(tokens, mask, objectives.group_std_advantages(rewards), prompt=prompt)
    batch = sharding.shard(mesh, batch, loss.axes(batch))
    reference = score(state.params, batch.rollouts.prompt, batch.rollouts.tokens)
    noise = np.random.default_rng(1).normal(size=reference.shape).astype(np.float32)
    batch = batch.replace(scores=loss.Scores(reference + 0.3 * noise, reference - 0.1 * noise))
    state, metrics = step(state, batch)
    return state, jax.device_get(metrics)


def assert_same(got, want, metrics=("loss", "gradient_norm", "entropy")):
    for name in metrics:
        assert got[1][name] == pytest.approx(want[1][name], rel=2e-4, abs=1e-5), name
    paths = jax.tree_util.tree_leaves_with_path(want[0].params)
    for (path, w), g in zip(paths, jax.tree.leaves(got[0].params), strict=True):
        np.testing.assert_allclose(
            np.asarray(g), np.asarray(w), atol=2e-5, err_msg=jax.tree_util.keystr(path)
        )


@pytest.fixture(scope="module")
def one_device():
    mesh = make_mesh()
    return {"sft": sft_step(mesh), "grpo": grpo_step(mesh)}


def test_micro_batches_change_nothing(one_device):
    mesh = make_mesh()
    assert_same(sft_step(mesh, micro_batches=4), one_device["sft"])
    assert_same(grpo_step(mesh, micro_batches=2), one_device["grpo"])


def test_micro_batches_of_a_sharded_batch_change_nothing(one_device):
    assert_same(grpo_step(make_mesh(data=2, fsdp=2), micro_batches=2), one_device["grpo"])


def test_sft_learns_its_targets():
    _, before = sft_step(make_mesh(), steps=1)
    _, after = sft_step(make_mesh(), steps=30)
    assert after["loss"] < 0.5 * before["loss"]


def test_sft_loss_is_the_mean_over_target_tokens_alone():
    tokens, mask = tiny.completions(BATCH, 1, 6)
    model, params, prompt = tiny.model(), tiny.params(), tiny.prompts(BATCH)
    batch = sft.SFTBatch(prompt, tokens, mask)
    value, _ = sft.loss(model, params, batch, mask.sum())
    log_probs = np.asarray(model.score(params, prompt, tokens))
    assert value == pytest.approx(-log_probs[np.asarray(mask)].mean(), rel=1e-5)
    other = jnp.where(mask, tokens, 33)  # what stands behind the end doesn't matter
    value_again, _ = sft.loss(model, params, sft.SFTBatch(prompt, other, mask), mask.sum())
    assert value_again == pytest.approx(float(value), rel=1e-5)


def test_frozen_weights_stay_and_have_no_moments():
    mesh = make_mesh()
    state, _ = sft_step(mesh, freeze="vision/.*")
    before = tiny.params()
    for a, b in zip(jax.tree.leaves(state.params["vision"]), jax.tree.leaves(before["vision"])):
        np.testing.assert_array_equal(a, b)
    changed = np.abs(
        state.params["language"]["embed"]["embedding"] - before["language"]["embed"]["embedding"]
    )
    assert changed.max() > 1e-4
    trained, frozen = states.split(before, "vision/.*")
    assert all(path.startswith("vision/") for path in frozen) and frozen
    sizes = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert sizes == 2 * sum(x.size for x in trained.values())


@pytest.mark.parametrize("freeze", [".*", "("])
def test_a_freeze_that_cannot_be_meant_is_an_error(freeze):
    with pytest.raises(UserError, match="freeze"):
        states.split(tiny.params(), freeze)


def test_schedules_reach_their_peak_and_end_at_zero():
    cosine = optimizers.learning_rate(ml_collections.ConfigDict({**HYPER, "warmup_steps": 10}), 100)
    assert cosine(0) == 0 and cosine(10) == pytest.approx(1e-2) and cosine(100) < 1e-6
    linear = optimizers.learning_rate(
        ml_collections.ConfigDict({**HYPER, "schedule": "linear"}), 100
    )
    assert linear(0) == pytest.approx(1e-2) and linear(50) == pytest.approx(5e-3)
