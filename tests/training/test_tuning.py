"""Steps of an adapter: its gradient, its optimizer, its base, its dropout, its reference."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from rrft_jax.errors import UserError
from rrft_jax.models import adapter, table
from rrft_jax.models.adapter import LoRA
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.settings import Config, LoRASettings, ModelSettings
from rrft_jax.training import grpo, loss, objectives, sft, tuning
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from tests import tiny
from tests.minibatches import minibatch
from tests.models.test_adapter import by_hand, params
from tests.training.test_steps import HYPER

BATCH, SCALE = 4, 1.5
MESH = {"data": 1, "fsdp": 2, "tensor": 2}


def form(dropout: float = 0.0) -> LoRA:
    return LoRA(4, SCALE, adapter.targets(tiny.CONFIG, ".*"), dropout)


def placed(mesh, tree: dict) -> dict:
    """Parameters with an adapter on a mesh."""
    where = table.parameter_shardings(tiny.CONFIG, mesh)
    shapes = tuning.abstract_adapter(tiny.model(mesh=mesh, lora=form()), jnp.float32)
    where["adapter"] = jax.tree.map(lambda x: x.sharding, shapes)
    return jax.tree.map(lambda x, s: jax.device_put(np.asarray(x), s), tree, where)


def sft_batch():
    tokens, mask = tiny.completions(BATCH, 1, 6)
    return sft.SFTBatch(tiny.prompts(BATCH), tokens, mask)


def start(mesh, dropout: float = 0.0):
    """(model, optimizer, base, state) of an adapter that is far from 0."""
    model = tiny.model(mesh=mesh, lora=form(dropout))
    base, trained = tuning.split(placed(mesh, params()))
    optimizer = optimizers.make_optimizer(HYPER, 100)
    return model, optimizer, base, states.create(trained, optimizer, "vision/.*", mesh)


def sft_step(micro_batches: int = 1, dropout: float = 0.0, seed: int = 0, **axes):
    mesh = make_mesh(**axes)
    model, optimizer, base, state = start(mesh, dropout)
    step = sft.make_step(
        model, optimizer, "vision/.*", micro_batches, states.layout(state), seed=seed
    )
    batch = sharding.shard(mesh, sft_batch(), sft.AXES)
    return jax.device_get(step(state, batch, base))


def grpo_step(micro_batches: int = 1, dropout: float = 0.0, **axes):
    mesh = make_mesh(**axes)
    model, optimizer, base, state = start(mesh, dropout)
    config = ml_collections.ConfigDict({**HYPER, "micro_batches": micro_batches})
    step = grpo.make_update(model, optimizer, config, states.layout(state))
    tokens, mask = tiny.completions(BATCH, 3, 6)
    rewards = np.random.default_rng(0).integers(0, 3, (BATCH, 3)).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(2, *tokens.shape)).astype(np.float32)
    batch = minibatch(
        tokens,
        mask,
        objectives.group_std_advantages(rewards),
        prompt=tiny.prompts(BATCH),
        old=noise[0] - 4,
        reference=noise[1] - 4,
    )
    return jax.device_get(step(state, sharding.shard(mesh, batch, loss.axes(batch)), base=base))


one_sft, one_grpo = functools.cache(sft_step), functools.cache(grpo_step)


def assert_same(got, want):
    for name in ("loss", "gradient_norm", "entropy"):
        assert got[1][name] == pytest.approx(want[1][name], rel=2e-4, abs=1e-5), name
    for (path, w), g in zip(
        jax.tree_util.tree_leaves_with_path(want[0].params), jax.tree.leaves(got[0].params)
    ):
        np.testing.assert_allclose(g, w, atol=2e-5, err_msg=jax.tree_util.keystr(path))


def test_a_step_is_the_optimizers_on_the_chain_rule_of_the_whole_gradient():
    """Of SFT, whose gradient by the whole weights is computed without any adapter."""
    state, metrics = one_sft()
    batch, own = sft_batch(), params()
    grads = jax.jit(jax.grad(lambda p: sft.loss(tiny.model(), p, batch, batch.mask.sum())[0]))(
        by_hand(own, SCALE)
    )
    grads, want, flat = table.flatten(grads), {}, {}
    for path, (a, b) in adapter.pairs(own["adapter"]).items():
        of_kernel = np.asarray(grads[f"{path}/kernel"], np.float64)
        want[f"adapter/{path}/a"] = SCALE * np.einsum("...io,...ro->...ir", of_kernel, b)
        want[f"adapter/{path}/b"] = SCALE * np.einsum("...ir,...io->...ro", a, of_kernel)
        flat |= {f"adapter/{path}/a": a, f"adapter/{path}/b": b}
    want = {path: jnp.asarray(x, jnp.float32) for path, x in want.items()}
    assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(want)), rel=1e-4)
    h = HYPER
    rule = optax.chain(  # written down anew: all of an adapter is decayed
        optax.clip_by_global_norm(h.clip_norm),
        optax.adamw(h.learning_rate, h.b1, h.b2, h.eps, weight_decay=h.weight_decay),
    )
    updates, _ = rule.update(want, rule.init(flat), flat)
    stepped = optax.apply_updates(flat, updates)
    got = table.flatten(state.params)
    assert got.keys() == stepped.keys()
    for path, x in stepped.items():
        np.testing.assert_allclose(got[path], x, atol=2e-5, err_msg=path)
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
    assert sum(x.size for x in moments) == 2 * sum(x.size for x in flat.values())


def test_neither_micro_batches_nor_the_mesh_change_a_step_or_its_dropout():
    assert_same(sft_step(2, dropout=0.5, **MESH), one_sft(dropout=0.5))
    assert_same(grpo_step(2, dropout=0.5, **MESH), one_grpo(dropout=0.5))


def test_dropout_is_drawn_by_the_seed():
    assert one_sft(dropout=0.5)[1]["loss"] != pytest.approx(one_sft()[1]["loss"], rel=1e-3)
    other = sft_step(dropout=0.5, seed=1)
    assert other[1]["loss"] != pytest.approx(one_sft(dropout=0.5)[1]["loss"], rel=1e-3)


CONFIG = Config(lora=LoRASettings(rank=4, alpha=6.0, targets=".*"))


def begun(mesh=None, config=CONFIG):
    mesh = mesh or make_mesh()
    shardings = table.parameter_shardings(tiny.CONFIG, mesh)
    weights = jax.tree.map(lambda x, s: jax.device_put(np.asarray(x), s), tiny.params(), shardings)
    return tuning.begin(config, tiny.model(mesh=mesh), weights)


def test_a_fresh_adapter_is_the_same_on_every_mesh_and_another_by_another_seed():
    _, one = begun()
    model, many = begun(make_mesh(**MESH))
    jax.tree.map(np.testing.assert_array_equal, one["adapter"], many["adapter"])
    assert (
        model.lora == form()
        and not many["adapter"]["language"]["layers"]["q"]["a"].sharding.is_fully_replicated
    )
    _, other = begun(config=dataclasses.replace(CONFIG, seed=1))
    first, second = (
        adapter.pairs(tree["adapter"])["vision/blocks/qkv"][0] for tree in (one, other)
    )
    assert (first != second).all()
    abstract = tuning.abstract(CONFIG, model)
    for got, want in zip(jax.tree.leaves(tuning.split(many)), jax.tree.leaves(abstract)):
        assert got.shape == want.shape and got.sharding.is_equivalent_to(want.sharding, got.ndim)


def test_a_base_in_eight_bits_is_made_and_foreseen():
    own = LoRASettings(rank=3, base_dtype="int8")
    config = Config(lora=own, model=ModelSettings(dtype="bfloat16", compute_dtype="float32"))
    model, params = begun(config=config)
    assert params["language"]["layers"]["q"]["kernel"]["int8"].dtype == jnp.int8
    assert {str(x.dtype) for x in jax.tree.leaves(params["adapter"])} == {"bfloat16"}
    abstract = jax.tree.leaves(tuning.abstract(config, model))
    for got, want in zip(jax.tree.leaves(tuning.split(params)), abstract, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
    for base, read in (("", "float32"), ("bfloat16", "bfloat16"), ("int8", "float32")):
        lora = dataclasses.replace(own, base_dtype=base)
        assert tuning.dtype(dataclasses.replace(config, lora=lora)) == read
    assert tuning.dtype(dataclasses.replace(config, lora=LoRASettings())) == "bfloat16"


def test_the_reference_is_the_base_itself():
    model, fresh = begun()
    reference = tuning.reference(model, fresh, "")
    assert reference.keys() == {"vision", "language"}
    own = {**fresh, "adapter": jax.tree.map(lambda x: x + 1, fresh["adapter"])}
    begins = tuning.reference(model, own, "")
    for name in ("vision", "language"):
        for x, y, z in zip(*(jax.tree.leaves(tree[name]) for tree in (reference, begins, own))):
            assert x is z and y is z
    jax.tree.map(np.testing.assert_array_equal, begins["adapter"], own["adapter"])
    for x, y in zip(jax.tree.leaves(begins["adapter"]), jax.tree.leaves(own["adapter"])):
        assert x is not y  # the first update consumes the other one


def test_targets_that_no_map_has_are_refused():
    with pytest.raises(UserError, match="lora.targets: 'q_proj' matches the whole path of no"):
        tuning.lora(LoRASettings(rank=3, targets="q_proj"), tiny.CONFIG)
    assert tuning.lora(LoRASettings(targets="q_proj"), tiny.CONFIG) is None


def test_no_update_of_an_adapter_forms_a_gradient_of_frozen_weights():
    """Its program has no float32 product of a weight's shape; the one of all weights has many."""
    text = dataclasses.replace(tiny.CONFIG.text, mlp_width=80)  # no other array has this size
    config = dataclasses.replace(tiny.CONFIG, text=text)
    settings = {
        tuning_: Config(
            lora=LoRASettings(rank=0 if tuning_ == "full" else 2),
            model=ModelSettings(dtype="bfloat16"),
        )
        for tuning_ in ("full", "lora")
    }
    programs = {name: _compiled(c, config) for name, c in settings.items()}
    shape = r"= f32\[(?:2,)?(?:32,80|80,32)\]\S* "
    formed = {name: re.findall(shape + "dot", text) for name, text in programs.items()}
    assert len(formed["full"]) == 6 and not formed["lora"]  # 3 maps of prompts, and of targets
    # Nor does its loop over layers keep float32 copies of the frozen weights.
    kept = {n: re.findall(shape + "dynamic-update-slice", text) for n, text in programs.items()}
    assert kept["full"] and not kept["lora"]


def _compiled(config: Config, sizes) -> str:
    """The optimised program of an SFT step."""
    mesh = make_mesh()
    model = tiny.model(
        config=sizes,
        dtype=jnp.bfloat16,
        param_dtype=jnp.bfloat16,
        mesh=mesh,
        lora=tuning.lora(config.lora, sizes),
    )
    optimizer = optimizers.make_optimizer(HYPER, 100)
    base, trained = tuning.abstract(config, model)
    state = states.abstract(trained, optimizer, "", mesh)
    step = sft.make_step(model, optimizer, "", 1, states.layout(state))
    return step.lower(state, sft_batch(), base).compile().as_text()
