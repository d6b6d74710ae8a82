"""The shared-prompt form against the plain one, in which every prompt and picture is repeated."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from rrft_jax.models.decoder import text_angles
from rrft_jax.models.vlm import VLM, PromptCache
from tests import tiny


def repeated_log_probs(model, params, prompt, completions):
    """Each completion appended to its own copy of the prompt, plain causal attention: [B,G,T]."""
    batch, group, length = completions.shape
    repeated = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), prompt.replace(positions=0))
    positions = jnp.repeat(prompt.positions, group, axis=1)
    appended = repeated.next_position[:, None] + jnp.arange(length)
    appended = jnp.broadcast_to(appended, (3, *appended.shape))
    flat = completions.reshape(batch * group, length)
    whole = repeated.replace(
        tokens=jnp.concatenate([repeated.tokens, flat], 1),
        mask=jnp.concatenate([repeated.mask, jnp.ones_like(flat, bool)], 1),
        positions=jnp.concatenate([positions, appended], 2),
    )
    x, step = model._prompt_stream(params, whole)
    x, *_ = model._decoder(params, x, None, step)
    log_probs = jax.nn.log_softmax(model.logits(params, x[:, -length - 1 : -1]))
    taken = jnp.take_along_axis(log_probs, flat[..., None], axis=-1)[..., 0]
    return taken.reshape(completions.shape)


def doubled(x):
    x = np.asarray(x)
    return x.astype(np.float64) if x.dtype == np.float32 else x


@pytest.fixture(scope="module")
def case(request):
    config = getattr(request, "param", tiny.CONFIG)
    tokens, mask = tiny.completions(3, 4, 6)
    return tiny.model(config=config), tiny.params(config), tiny.prompts(3), tokens, mask


FAMILIES = pytest.mark.parametrize(
    "case", [tiny.CONFIG, tiny.DEEP], ids=["plain", "deepstack"], indirect=True
)


@FAMILIES
def test_score_equals_the_repeated_form(case, monkeypatch):
    """The same function in float64; in float32 both are a few roundings away from it."""
    model, arguments, forms = case[0], case[1:4], (VLM.score, repeated_log_probs)
    single = [jax.jit(functools.partial(form, model))(*arguments) for form in forms]
    # The model widens to float32 by this name whatever its dtype is, and says so in its types.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with jax.enable_x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        model = dataclasses.replace(model, dtype=jnp.float64, param_dtype=jnp.float64)
        arguments = jax.tree.map(doubled, arguments)
        shared, repeated = (jax.jit(functools.partial(form, model))(*arguments) for form in forms)
    np.testing.assert_allclose(shared, repeated, atol=1e-13)
    largest = np.abs(repeated).max()
    assert largest > 1  # not a comparison of flat distributions
    for got in single:
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, repeated, atol=16 * 2**-24 * largest)


@FAMILIES
def test_gradient_equals_that_of_the_repeated_form(case):
    model, params, prompt, tokens, mask = case
    weights = mask * np.random.default_rng(1).normal(size=mask.shape)

    def gradient(score):
        return jax.jit(jax.grad(lambda p: jnp.sum(score(p, prompt, tokens) * weights)))(params)

    shared = gradient(model.score)
    repeated = gradient(lambda *a: repeated_log_probs(model, *a))
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(got, want, atol=1e-5 * jnp.abs(want).max()),
        shared,
        repeated,
    )


def test_decoding_token_by_token_gives_the_scores(case):
    model, params, prompt, tokens, _ = case
    batch, group, length = tokens.shape

    @jax.jit
    def decoded(params, prompt, tokens):
        hidden, kv = model.prefill(params, prompt)
        hidden, rows = jnp.repeat(hidden, group, axis=0), tokens.reshape(-1, length)
        weights, prompts = model.decoding_weights(params), PromptCache(kv, prompt.mask)
        next_position = jnp.repeat(prompt.next_position, group)
        cache, results = model.empty_cache(batch * group, length), []
        for time in range(length):
            log_probs = jax.nn.log_softmax(model.logits(weights, hidden))
            results.append(jnp.take_along_axis(log_probs, rows[:, time, None], -1)[:, 0])
            hidden, cache = model.decode(
                weights, rows[:, time], jnp.array(time), next_position, prompts, cache
            )
        return jnp.stack(results, axis=-1).reshape(tokens.shape)

    np.testing.assert_allclose(
        decoded(params, prompt, tokens), jax.jit(model.score)(params, prompt, tokens), atol=1e-5
    )


def test_chunks_and_rematerialisation_change_nothing(case):
    _, params, prompt, tokens, _ = case
    tokens = tokens[..., :5]

    def gradient(model):
        return jax.jit(jax.grad(lambda p: model.score(p, prompt, tokens).sum()))(params)

    want = gradient(tiny.model(logit_chunk=100))
    got = gradient(tiny.model(logit_chunk=3, remat="full"))  # the second chunk has 2 tokens
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3), got, want)


def test_entropy_is_that_of_the_distribution(case):
    model, params, prompt, tokens, _ = case
    _, entropy = jax.jit(model.score_with_entropy)(params, prompt, tokens)
    hidden, _ = model.prefill(params, prompt)
    p = jax.nn.softmax(model.logits(params, hidden))
    np.testing.assert_allclose(entropy[:, 0, 0], -(p * jnp.log(p)).sum(-1), rtol=1e-4)


@FAMILIES
def test_padding_of_prompt_and_pictures_changes_nothing(case):
    model, params, prompt, tokens, _ = case
    more = prompt.replace(
        tokens=jnp.pad(prompt.tokens, ((0, 0), (5, 0))),
        mask=jnp.pad(prompt.mask, ((0, 0), (5, 0))),
        positions=jnp.pad(prompt.positions, ((0, 0), (0, 0), (5, 0))),
        patches=jnp.pad(prompt.patches, ((0, 0), (0, 8), (0, 0)), constant_values=3.0),
        patch_rows_cols=jnp.pad(prompt.patch_rows_cols, ((0, 0), (0, 8), (0, 0))),
        patch_image=jnp.pad(prompt.patch_image, ((0, 0), (0, 8)), constant_values=-1),
    )
    score = jax.jit(model.score)
    np.testing.assert_allclose(
        score(params, more, tokens), score(params, prompt, tokens), atol=1e-5
    )


@FAMILIES
def test_a_batch_without_pictures_needs_no_patches(case):
    model, params, _, tokens, _ = case
    prompt = tiny.prompts(3)
    text = prompt.replace(tokens=jnp.where(prompt.tokens == 60, 5, prompt.tokens))
    none = text.replace(
        patches=text.patches[:, :0],
        patch_rows_cols=text.patch_rows_cols[:, :0],
        patch_image=text.patch_image[:, :0],
    )
    score = jax.jit(model.score)
    np.testing.assert_allclose(score(params, none, tokens), score(params, text, tokens), atol=1e-6)


def test_text_positions_are_plain_rotary_positions():
    config = tiny.CONFIG.text
    positions = jnp.broadcast_to(jnp.arange(5), (3, 5))
    frequencies = config.rope_theta ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(
        text_angles(config, positions), np.arange(5)[:, None] * frequencies, rtol=1e-6
    )
