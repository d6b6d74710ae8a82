"""Every mesh gives the numbers of one device: losses, gradients, moments, tokens, metrics."""

import functools

import jax
import ml_collections
import numpy as np
import optax
import pytest

from configs import grpo as program
from rrft_jax.models import layout, table
from rrft_jax.models import prompt as prompts
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import GenerationConfig, generate
from rrft_jax.training import grpo, loss, objectives, sft
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from tests import tiny

BATCH, GROUP, LENGTH = 8, 2, 6
HYPER = ml_collections.ConfigDict(
    {
        **program.get_config().grpo.to_dict(),
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "weight_decay": 0.1,
        "clip_norm": 1e9,  # moments are those of the gradient itself
        "moment_dtype": "float32",
        "b1": 0.9,
        "b2": 0.999,
        "eps": 1e-3,  # Adam's first steps would blow rounding up to the size of an update
        "micro_batches": 1,
        "freeze": "",
    }
)
MESHES = {
    "data 8": {"data": 8},
    "fsdp 8": {"fsdp": 8},
    "tensor 4": {"tensor": 4},
    "data 2 x fsdp 2 x tensor 2": {"data": 2, "fsdp": 2, "tensor": 2},
}


PROMPT = tiny.with_grids(tiny.prompts(BATCH))


@functools.cache
def sampled(config=tiny.CONFIG, **axes):
    """The completions that a mesh draws for eight prompts, on the host."""
    mesh, shardings = _mesh(axes, config)
    return jax.device_get(
        generate(
            tiny.model(config=config, mesh=mesh),
            jax.tree.map(jax.device_put, tiny.params(config), shardings),
            sharding.shard(mesh, PROMPT, prompts.AXES),
            jax.random.key(0),
            GenerationConfig(
                num_generations=GROUP,
                max_new_tokens=LENGTH,
                stop_tokens=tuple(range(2, 14)),
                pad_token=tiny.PAD,
            ),
        )
    )


@functools.cache
def trained(stage, config=tiny.CONFIG, **axes):
    """A step of a stage on a mesh: (state, metrics), on the host."""
    mesh, shardings = _mesh(axes, config)
    model, params = tiny.model(config=config, mesh=mesh), tiny.params(config)
    params = jax.tree.map(lambda x, s: jax.device_put(np.asarray(x), s), params, shardings)
    optimizer = optimizers.make_optimizer(HYPER, 100)
    state = states.create(params, optimizer, "", mesh)
    prompt, out = PROMPT, sampled()
    if stage == "sft":
        step = sft.make_step(model, optimizer, "", 1, states.layout(state))
        rows = sft.SFTBatch(prompt, out.tokens, out.mask)
        batch = sharding.shard(mesh, rows, sft.AXES)
    else:
        step = grpo.make_update(model, optimizer, HYPER, states.layout(state))
        rng = np.random.default_rng(0)
        rewards = rng.integers(0, 3, (BATCH, GROUP)).astype(np.float32)
        noise = rng.normal(size=(2, *out.tokens.shape)).astype(np.float32)
        scores = loss.Scores(out.log_probs + 0.3 * noise[0], out.log_probs + 0.1 * noise[1])
        rows = loss.Minibatch(
            out.inputs().replace(prompt=prompt), scores, objectives.group_std_advantages(rewards)
        )
        batch = sharding.shard(mesh, rows, loss.axes(rows))
    state, metrics = step(state, batch)
    if mesh.size > 1:
        assert not state.params["language"]["layers"]["gate"]["kernel"].sharding.mesh.empty
    return jax.device_get((state, metrics))


def _mesh(axes, config=tiny.CONFIG):
    mesh = make_mesh(**axes)
    layout.check(config, mesh)
    return mesh, table.parameter_shardings(config, mesh)


@pytest.mark.parametrize("axes", MESHES.values(), ids=MESHES)
def test_samples_are_those_of_one_device(axes):
    assert_same_samples(sampled(**axes), sampled())


def assert_same_samples(got, want):
    assert 0 < want.finished.mean() < 1
    for name in ("tokens", "mask", "finished"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    for name in ("log_probs", "rollout_log_probs"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=1e-5)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize("axes", MESHES.values(), ids=MESHES)
def test_a_step_is_that_of_one_device(axes, stage):
    assert_same(trained(stage, **axes), trained(stage))


@pytest.mark.parametrize("config", [tiny.WINDOWS, tiny.DEEP], ids=["windows", "deepstack"])
def test_a_step_of_another_family_is_that_of_one_device(config):
    axes = MESHES["data 2 x fsdp 2 x tensor 2"]
    assert_same(trained("grpo", config, **axes), trained("grpo", config))


def test_samples_of_a_model_with_deepstack_are_those_of_one_device():
    axes = MESHES["data 2 x fsdp 2 x tensor 2"]
    assert_same_samples(sampled(tiny.DEEP, **axes), sampled(tiny.DEEP))


def assert_same(of_mesh, of_one):
    (got, metrics), (want, wanted) = of_mesh, of_one
    assert (got.step, got.moved) == (want.step, want.moved)
    assert metrics.keys() == wanted.keys() and "loss" in metrics
    for name in wanted:
        assert metrics[name] == pytest.approx(wanted[name], rel=2e-5, abs=2e-6), name
    # Moments are the gradient and its square: of each array, to rounding at its own size.
    leaves, moments = jax.tree_util.tree_leaves_with_path, 0
    for (path, w), (_, g) in zip(leaves(want.opt_state), leaves(got.opt_state), strict=True):
        name, rounding = jax.tree_util.keystr(path), 2e-5 * max(np.abs(w).max(), 1e-3)
        moments += ".mu" in name or ".nu" in name
        np.testing.assert_allclose(g, w, rtol=0, atol=rounding, err_msg=name)
    assert moments == 2 * len(jax.tree.leaves(want.params))
    # Adam's first step is g / (|g| + eps) of the learning rate. Where a gradient is small, the step
    # has as much of its rounding as the derivative says, but never 0.002 of the learning rate.
    gradients = jax.tree.leaves(optax.tree.get(want.opt_state, "mu"))
    for (path, w), (_, g), mu in zip(
        leaves(want.params), leaves(got.params), gradients, strict=True
    ):
        gradient = np.abs(mu) / (1 - HYPER.b1)
        rounding = 2e-5 * gradient.max() * HYPER.eps / (gradient + HYPER.eps) ** 2
        wrong = np.abs(g - w) > HYPER.learning_rate * np.minimum(1e-4 + rounding, 2e-3)
        assert not wrong.any(), (jax.tree_util.keystr(path), g[wrong], w[wrong])


def test_caches_of_key_value_heads_that_do_not_divide_stay_whole_and_the_table_says_so():
    mesh, _ = _mesh({"tensor": 4})
    heads = tiny.CONFIG.text.kv_heads
    assert sharding.spec(mesh, "RK..", (BATCH, heads, 8, LENGTH))[1] is None
    table = "\n".join(layout.summary(tiny.CONFIG, mesh))
    assert f"{heads} -> {heads} ({heads} is no multiple of 4: whole)" in table
