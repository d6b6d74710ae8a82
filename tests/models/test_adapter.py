"""An adapter beside the weights: what it computes, its gradients, its form, its dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.errors import UserError
from rrft_jax.models import adapter, int8, prompt, table
from rrft_jax.models.adapter import LoRA
from rrft_jax.models.families import FAMILIES, RELEASED
from rrft_jax.models.layers import Dense, product
from rrft_jax.rollout import GenerationConfig, generate
from tests import tiny

EVERYTHING = ".*"


def lora(targets: str = EVERYTHING, rank: int = 4, config=tiny.CONFIG, **fields) -> LoRA:
    return LoRA(rank, scale=1.5, targets=adapter.targets(config, targets), **fields)


@functools.cache
def model(targets: str = EVERYTHING, config=tiny.CONFIG):
    return tiny.model(config=config, lora=lora(targets, config=config))


@functools.cache
def params(targets: str = EVERYTHING, config=tiny.CONFIG) -> dict:
    """Weights and an adapter, none of whose factors is 0."""
    shapes = table.flatten(adapter.shapes(config, lora(targets, config=config)))
    rng = np.random.default_rng(7)
    flat = {
        path: jnp.asarray(rng.normal(size=shape) * 0.5 * shape[-2] ** -0.5, jnp.float32)
        for path, shape in shapes.items()
    }
    return {**tiny.params(config), "adapter": table.unflatten(flat)}


def by_hand(params: dict, scale: float) -> dict:
    """The weights with the adapter in them, in float64 and then rounded."""
    flat = {path: np.asarray(x, np.float64) for path, x in table.flatten(params).items()}
    for path in [path for path in flat if path.startswith("adapter/") and path.endswith("/a")]:
        a, b = flat.pop(path), flat.pop(f"{path[:-1]}b")
        product = np.einsum("...ir,...ro->...io", a, b)
        flat[f"{path[len('adapter/') : -2]}/kernel"] += scale * product
    return table.unflatten({path: x.astype(np.float32) for path, x in flat.items()})


INPUTS = tiny.with_grids(tiny.prompts(3)), tiny.completions(3)[0]


@pytest.mark.parametrize("config", [tiny.CONFIG, tiny.WINDOWS, tiny.DEEP], ids=FAMILIES)
def test_scores_are_those_of_the_weights_with_the_product_added(config):
    own = params(config=config)
    score = jax.jit(tiny.model(config=config).score)
    got = jax.jit(model(config=config).score)(own, *INPUTS)
    want = score(by_hand(own, 1.5), *INPUTS)
    plain = score(tiny.params(config), *INPUTS)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got - plain).mean() > 0.01
    merged = adapter.merge(own, 1.5)
    for path, x in table.flatten(by_hand(own, 1.5)).items():
        np.testing.assert_allclose(table.flatten(merged)[path], x, atol=1e-5, err_msg=path)


def test_gradients_are_those_of_the_whole_weights_by_the_chain_rule():
    own = params()
    weights = jax.random.normal(jax.random.key(0), INPUTS[1].shape)

    def loss(model, adapted, base):
        return jnp.sum(weights * model.score({**base, **adapted}, *INPUTS))

    adapted, base = {"adapter": own["adapter"]}, tiny.params()
    got = jax.jit(jax.grad(functools.partial(loss, model())))(adapted, base)
    whole = jax.jit(jax.grad(functools.partial(loss, tiny.model())))(by_hand(own, 1.5), {})
    whole = table.flatten(whole)
    for path, (a, b) in adapter.pairs(own["adapter"]).items():
        of_kernel = np.asarray(whole[f"{path}/kernel"], np.float64)
        of_a, of_b = adapter.pairs(got["adapter"])[path]
        want_a = 1.5 * np.einsum("...io,...ro->...ir", of_kernel, b)
        want_b = 1.5 * np.einsum("...ir,...io->...ro", a, of_kernel)
        for found, want in ((of_a, want_a), (of_b, want_b)):
            error = np.abs(found - want).max() / np.abs(want).max()
            assert error < 1e-4, (path, error)


def test_samples_are_those_of_the_weights_with_the_product_added():
    own, how = params(), GenerationConfig(max_new_tokens=6, stop_tokens=(), num_generations=2)
    key = jax.random.key(3)
    got = generate(model(), own, INPUTS[0], key, how)
    want = generate(tiny.model(), by_hand(own, 1.5), INPUTS[0], key, how)
    assert np.array_equal(got.tokens, want.tokens)
    np.testing.assert_allclose(got.log_probs, want.log_probs, atol=1e-5)


def test_a_fresh_adapter_changes_nothing():
    fresh = adapter.init(jax.random.key(0), tiny.CONFIG, lora())
    assert adapter.is_fresh(fresh) and not adapter.is_fresh(params()["adapter"])
    got = jax.jit(model().score)({**tiny.params(), "adapter": fresh}, *INPUTS)
    assert np.array_equal(got, jax.jit(tiny.model().score)(tiny.params(), *INPUTS))
    bound = table.flatten(fresh)["language/layers/down/a"]
    assert 0.9 < np.abs(bound).max() * 48**0.5 <= 1
    layers = table.flatten(fresh)["language/layers/q/a"]
    assert len(np.unique(layers)) == layers.size


def test_weights_in_eight_bits_carry_an_adapter():
    stored = int8.quantise(tiny.params(), jnp.float32)
    own = {**stored, "adapter": params("decoder")["adapter"]}
    dequantised = jax.tree.map(
        lambda x: np.asarray(x["int8"], np.float32) * x["scale"] if isinstance(x, dict) else x,
        stored,
        is_leaf=lambda x: isinstance(x, dict) and "int8" in x,
    )
    whole = by_hand({**dequantised, "adapter": own["adapter"]}, 1.5)
    got = jax.jit(model("decoder").score)(own, *INPUTS)
    np.testing.assert_allclose(got, jax.jit(tiny.model().score)(whole, *INPUTS), atol=1e-5)
    weights = model("decoder").decoding_weights(own)["language"]["layers"][1]
    np.testing.assert_allclose(
        weights["q"]["kernel"], whole["language"]["layers"]["q"]["kernel"][1], atol=1e-5
    )


def dropout_scores(own: dict, rows: slice = slice(None), seed: int = 5, dropout: float = 0.5):
    keys = jax.random.split(jax.random.key(seed), 3)[rows]
    inputs = jax.tree.map(
        lambda x, axes: x[(slice(None),) * axes.index("B") + (rows,)],
        INPUTS,
        (prompt.AXES, "BGT"),
    )
    return jax.jit(model().score)(adapter.dropped(own, keys, dropout), *inputs)


def test_dropout_belongs_to_a_row_and_is_right_on_average():
    own = params()
    scores = dropout_scores(own)
    assert np.array_equal(scores, dropout_scores(own))
    np.testing.assert_allclose(scores[1:2], dropout_scores(own, slice(1, 2)), atol=1e-5)
    assert np.abs(scores - dropout_scores(own, seed=6)).mean() > 0.01
    np.testing.assert_allclose(
        dropout_scores(own, dropout=0.0), jax.jit(model().score)(own, *INPUTS), atol=1e-5
    )
    base = {**own, "adapter": jax.tree.map(jnp.zeros_like, own["adapter"])}
    plain = jax.jit(model().score)(base, *INPUTS)
    np.testing.assert_allclose(dropout_scores(base), plain, atol=1e-5)  # of the adapter alone


def test_dropped_values_are_zero_and_the_others_scaled():
    x, keys = jnp.ones((4, 100, 50)), jax.random.split(jax.random.key(0), 4)
    variables = {
        "params": {"kernel": jnp.zeros((50, 50)), "bias": jnp.zeros(50)},
        "adapter": {
            "a": jnp.eye(50),
            "b": jnp.eye(50),
            "keys": jax.random.key_data(keys),
            "keep": jnp.float32(0.8),
        },
    }
    y = Dense(50, jnp.float32).apply(variables, x)
    assert set(np.unique(y)) == {0.0, np.float32(1.25)}
    np.testing.assert_allclose(np.mean(y, axis=(1, 2)), 1, atol=0.05)
    assert not np.array_equal(y[0], y[1])


def test_targets_are_linear_maps_by_their_whole_path():
    layers = [f"language/layers/{name}" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    assert list(adapter.targets(RELEASED["7b"], "decoder")) == layers
    assert adapter.targets(RELEASED["7b"], "language/layers/[qv]") == tuple(layers[:3:2])
    everything = adapter.targets(RELEASED["7b"], ".*")
    assert "vision/merger/fc1" in everything and "vision/blocks/qkv" in everything
    assert not {"language/head", "language/embed", "vision/patch_embed"} & set(everything)
    for pattern, told in {
        "q_proj": "language/layers/q",
        "language/head": "vision/blocks/qkv",
        "(": "is not a regular",
    }.items():
        with pytest.raises(UserError, match=told):
            adapter.targets(RELEASED["7b"], pattern)


def test_factors_lie_like_their_weights():
    own = lora(config=RELEASED["7b"])
    axes, shapes = adapter.axes(RELEASED["7b"], own), adapter.shapes(RELEASED["7b"], own)
    flat, sizes = table.flatten(axes), table.flatten(shapes)
    assert (flat["language/layers/q/a"], flat["language/layers/q/b"]) == ("LDr", "LrH")
    assert (flat["language/layers/down/a"], flat["language/layers/down/b"]) == ("LFr", "LrD")
    assert sizes["language/layers/k/b"] == (28, 4, 512)
    assert (flat["vision/merger/fc1/a"], sizes["vision/merger/fc1/a"]) == ("Dr", (5120, 4))
    assert flat.keys() == sizes.keys()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32], ids=str)
def test_no_inputs_are_kept_for_a_frozen_kernel_which_is_kept_as_it_came(dtype):
    x, kernel = jnp.ones((7, 5), dtype), jnp.ones((5, 3), jnp.bfloat16)

    def kept(f, *arguments):
        _, backward = jax.vjp(f, *arguments)
        return sorted((x.shape, x.dtype) for x in jax.tree.leaves(backward))

    frozen = kept(lambda x: product(x, kernel, dtype), x)
    assert frozen == [((5, 3), jnp.bfloat16)]
    trained = kept(lambda x, kernel: product(x, kernel, dtype), x, kernel)
    assert [shape for shape, _ in trained] == [(5, 3), (7, 5)]
