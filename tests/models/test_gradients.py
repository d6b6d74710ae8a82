"""Gradients are sums over tokens, chunks, copies, micro-batches: in float32, for any dtype.

bfloat16 has eight bits, so that 256 + 1 is 256 there: a sum of 300 ones shows where one is made.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from configs import grpo as program
from rrft_jax.models import table
from rrft_jax.models.attention import xla
from rrft_jax.models.layers import Dense, Embedding, LayerNorm, RMSNorm, broadcast
from rrft_jax.parallel import sharding
from rrft_jax.training import loss as grpo_loss
from rrft_jax.training import sft
from rrft_jax.training import state as states
from tests import tiny
from tests.minibatches import minibatch

BF16 = jnp.bfloat16
MANY = 300
DTYPES = pytest.mark.parametrize("dtype", [jnp.float32, BF16], ids=["float32", "bfloat16"])
LAYERS = {
    "embedding": (Embedding(4, 8, BF16), jnp.full((3, MANY // 3), 2)),
    "dense": (Dense(4, BF16), jnp.ones((3, MANY // 3, 8))),
    "rms norm": (RMSNorm(0.0, BF16), jnp.ones((3, MANY // 3, 8))),
    "layer norm": (LayerNorm(1e-6, BF16), jnp.ones((3, MANY // 3, 8))),
}


@DTYPES
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_adds_up_what_every_token_gives(name, dtype):
    layer, x = LAYERS[name]
    params = jax.tree.map(lambda p: p.astype(dtype), layer.init(jax.random.key(0), x))
    grads = jax.jit(jax.grad(lambda p: layer.apply(p, x).astype(jnp.float32).sum()))(params)
    grads = {k: np.asarray(v, np.float32) for k, v in grads["params"].items()}
    if name == "embedding":
        np.testing.assert_array_equal(grads["embedding"][2], MANY)
        assert not grads["embedding"][[0, 1, 3]].any()
    elif name == "layer norm":  # of equal numbers it is its bias
        np.testing.assert_array_equal(grads["bias"], MANY)
    else:
        assert grads
        for value in grads.values():
            np.testing.assert_array_equal(value, MANY)


def test_copies_add_up():
    gradient = jax.jit(jax.grad(lambda x: broadcast(x, (MANY, 4)).astype(jnp.float32).sum()))
    np.testing.assert_array_equal(np.asarray(gradient(jnp.ones(4, BF16)), np.float32), MANY)


def test_attention_adds_up_over_chunks_of_queries(monkeypatch):
    """Two of the weight of each value, an eighth, for each of 16 queries of a chunk."""
    monkeypatch.setattr(xla, "MOST_SCORES", 1)
    length, keys = MANY * xla.FEWEST_QUERIES, 8
    q, k, v = (jnp.zeros((1, n, 1, 4), BF16) for n in (length, keys, keys))
    seen = jnp.ones((1, 1, 1, 1, length, keys), bool)

    def attended(v):
        return xla._attend(q[:, None], [xla.Keys(k, v, seen)]).astype(jnp.float32).sum()

    np.testing.assert_array_equal(
        np.asarray(jax.jit(jax.grad(attended))(v), np.float32), length / keys
    )


@DTYPES
@pytest.mark.parametrize("micro_batches", [1, MANY])
def test_an_update_adds_up_over_micro_batches(micro_batches, dtype):
    params, optimizer = {"a": {"w": jnp.ones(4, dtype)}}, optax.trace(0.0)
    state = states.TrainState(
        step=jnp.zeros((), int),
        params=params,
        opt_state=optimizer.init(states.split(params, "")[0]),
        moved=jnp.zeros((), bool),
    )

    def loss(params, batch):
        return jnp.sum(params["a"]["w"] * batch), {"metric": batch.sum()}

    batch = jnp.ones((micro_batches, MANY // micro_batches, 1), BF16)
    new, metrics = jax.jit(lambda s: states.update(s, optimizer, "", loss, batch))(state)
    assert new.params["a"]["w"].dtype == dtype
    np.testing.assert_array_equal(new.opt_state.trace["a/w"], MANY)
    assert metrics["gradient_norm"] == 2 * MANY
    if micro_batches > 1:
        assert metrics["metric"] == MANY and metrics["loss"] == 4 * MANY


def batch_of(rows: int, stage: str):
    """The same row, again and again."""
    (tokens, _), group = tiny.completions(1, 3, 6), 3 if stage == "grpo" else 1
    repeat = functools.partial(jnp.repeat, repeats=rows, axis=0)
    prompt = jax.tree.map(repeat, tiny.prompts(1).replace(positions=0))
    prompt = prompt.replace(positions=jnp.repeat(tiny.prompts(1).positions, rows, axis=1))
    tokens = repeat(tokens[:, :group])
    mask = jnp.ones(tokens.shape, bool)
    if stage == "sft":
        return sft.SFTBatch(prompt, tokens, mask)
    advantages = repeat(jnp.array([[1.0, -1.5, 0.5]]))
    batch = minibatch(
        tokens,
        mask,
        advantages,
        prompt=prompt,
        finished=mask[..., 0],
        rollout=jnp.zeros(mask.shape),
    )
    return batch


def update_of(
    stage: str, dtype, rows: int, micro_batches: int, remat: str = "none", config=tiny.CONFIG
):
    """(a function to the gradients of a stage's loss as an update adds them up, the parameters)."""
    model = tiny.model(config=config, dtype=BF16, param_dtype=dtype, remat=remat)
    params = jax.tree.map(lambda x: x.astype(BF16).astype(dtype), tiny.params(config))
    batch = batch_of(rows, stage)
    config = ml_collections.ConfigDict(program.get_config().grpo.to_dict())
    if stage == "grpo":
        batch = batch.replace(weights=grpo_loss.weigh(config, batch.rollouts))

    def loss(params, part):
        if stage == "sft":
            return sft.loss(model, params, part, rows * 6)
        return grpo_loss.loss(model, config, params, part)

    axes = sft.AXES if stage == "sft" else grpo_loss.axes(batch)
    parts = sharding.micro_batches(batch, axes, micro_batches)
    optimizer = optax.trace(0.0)

    def gradients(params):
        opt_state = optimizer.init(states.split(params, "")[0])
        state = states.TrainState(jnp.zeros((), int), params, opt_state, jnp.zeros((), bool))
        return states.update(state, optimizer, "", loss, parts)[0].opt_state.trace

    return gradients, params


@functools.cache
def gradients(stage: str, dtype, rows: int, micro_batches: int) -> dict[str, np.ndarray]:
    function, params = update_of(stage, dtype, rows, micro_batches)
    values = jax.jit(function)(params)
    return {name: np.asarray(x, np.float64) for name, x in values.items()}


@pytest.mark.parametrize(
    "stage, dtype, micro_batches",
    [("grpo", jnp.float32, 1), ("sft", BF16, 256)],
    ids=["grpo of float32", "sft of bfloat16"],
)
def test_every_parameters_gradient_is_as_right_in_a_long_batch(stage, dtype, micro_batches):
    """The loss is a mean, so the gradient of one row over and over is that of the row."""
    one, many = gradients(stage, dtype, 1, 1), gradients(stage, dtype, 256, micro_batches)
    assert set(many) == set(table.flatten(tiny.params()))
    for name, want in one.items():
        assert np.linalg.norm(many[name] - want) < 1e-4 * np.linalg.norm(want), name


def test_a_gradient_in_bfloat16_is_rounded_at_its_end():
    """As whoever differentiates `score` in bfloat16 parameters gets it."""
    model, params = tiny.model(dtype=BF16), jax.tree.map(lambda x: x.astype(BF16), tiny.params())
    batch = batch_of(256, "sft")
    function = jax.grad(lambda p: sft.loss(model, p, batch, 256 * 6)[0])
    got = table.flatten(jax.jit(function)(params))
    for name, want in gradients("sft", BF16, 1, 1).items():
        assert got[name].dtype == BF16
        error = np.asarray(got[name], np.float64) - want
        assert np.linalg.norm(error) < 4e-3 * np.linalg.norm(want), name


def equations(jaxpr) -> Iterator:
    """Every equation of a program, those of its loops and functions included."""
    for equation in jaxpr.eqns:
        yield equation
        for part in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            if hasattr(part, "eqns"):
                yield from equations(part)
            elif hasattr(part, "jaxpr"):
                yield from equations(part.jaxpr)


FAMILIES = pytest.mark.parametrize("config", [tiny.CONFIG, tiny.DEEP], ids=["plain", "deepstack"])


@FAMILIES
@DTYPES
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_no_program_of_an_update_makes_a_sum_in_bfloat16(micro_batches, dtype, config):
    function, params = update_of("grpo", dtype, 2, micro_batches, config=config)
    found = list(equations(jax.make_jaxpr(function)(params).jaxpr))
    sums = [x for x in found if x.primitive.name in ("scatter-add", "reduce_sum", "cumsum")]
    assert len(sums) > 20
    for x in sums:
        array = x.invars[0].aval
        one = all(array.shape[axis] == 1 for axis in x.params.get("axes", [0]))  # nothing to add
        assert array.dtype != BF16 or one, x


@FAMILIES
def test_no_loop_keeps_a_float32_copy_of_bfloat16_weights(config):
    """What its layers make of theirs they make again in the backward pass."""
    function, params = update_of("grpo", BF16, 2, 2, remat="full", config=config)
    matrices = {x.shape for x in jax.tree.leaves(params) if x.ndim == 3}
    loops = [
        x for x in equations(jax.make_jaxpr(function)(params).jaxpr) if x.primitive.name == "scan"
    ]
    kept = [x.aval for loop in loops for x in loop.outvars]
    assert len(loops) >= 5 and len(kept) > 5 and len(matrices) > 5
    assert not [x for x in kept if x.shape in matrices and x.dtype == jnp.float32]
