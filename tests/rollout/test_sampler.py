"""The jitted group sampler: its tokens, masks, log-probabilities and randomness."""

import jax
import numpy as np
import pytest

from rrft_jax.models import parameters
from rrft_jax.models import prompt as prompts
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import SamplingParams, generate, sampler
from tests import tiny

LENGTH = 7
STOPS = tuple(range(2, 14))


def run(key=0, model=None, params=None, prompt=None, **options):
    options = {"num_samples": 4, "max_new_tokens": LENGTH, "stop_tokens": STOPS} | options
    return generate(
        model or tiny.model(),
        params or tiny.params(),
        tiny.prompts(3) if prompt is None else prompt,
        jax.random.key(key),
        pad_token=tiny.PAD,
        **options,
    )


@pytest.fixture(scope="module")
def out():
    return jax.device_get(run())


def test_completions_end_with_a_stop_token_and_are_padded_behind_it(out):
    for tokens, mask, finished in zip(
        out.tokens.reshape(-1, LENGTH), out.mask.reshape(-1, LENGTH), out.finished.ravel()
    ):
        length = mask.sum()
        assert mask[:length].all() and length >= 1
        assert not np.isin(tokens[: length - 1], STOPS).any()
        assert finished == (tokens[length - 1] in STOPS)
        assert finished or length == LENGTH
        assert (tokens[length:] == tiny.PAD).all()
    assert 0 < out.finished.mean() < 1  # both kinds were seen


def test_log_probs_are_those_that_score_gives(out):
    want = tiny.model().score(tiny.params(), tiny.prompts(3), out.tokens)
    np.testing.assert_allclose(out.log_probs, np.where(out.mask, want, 0), atol=1e-5)


def test_picture_tokens_are_never_drawn():
    hot = run(num_samples=16, sampling=SamplingParams(temperature=100.0), stop_tokens=())
    tokens = np.asarray(hot.tokens)
    assert not np.isin(tokens, tiny.CONFIG.visual_tokens).any()
    assert len(np.unique(tokens)) > 40  # nearly all others were


def test_greedy_samples_are_alike_and_the_likeliest():
    out = run(sampling=SamplingParams(temperature=0.0), stop_tokens=())
    tokens = np.asarray(out.tokens)
    assert (tokens == tokens[:, :1]).all()
    model, params, prompt = tiny.model(), tiny.params(), tiny.prompts(3)
    hidden, _ = model.prefill(params, prompt)
    logits = np.asarray(model.logits(params, hidden)).copy()
    logits[:, list(tiny.CONFIG.visual_tokens)] = -np.inf
    np.testing.assert_array_equal(tokens[:, 0, 0], logits.argmax(-1))


def test_a_seed_repeats_and_another_differs(out):
    np.testing.assert_array_equal(run().tokens, out.tokens)
    assert (np.asarray(run(key=1).tokens) != out.tokens).any()


def test_samples_of_a_group_differ(out):
    assert len({tuple(row) for row in out.tokens[0]}) > 1


def test_draws_do_not_depend_on_the_batch(out):
    second = jax.tree.map(
        lambda name, x: x.take(np.array([1]), axis=name.index("B")),
        prompts.LETTERS,
        tiny.prompts(3),
    )
    alone = run(prompt=second, first_row=1)
    np.testing.assert_array_equal(alone.tokens[0], out.tokens[1])


def test_growing_the_cache_in_chunks_changes_nothing(out, monkeypatch):
    monkeypatch.setattr(sampler, "CACHE_CHUNK", 3)
    jax.clear_caches()
    np.testing.assert_array_equal(run().tokens, out.tokens)


@pytest.mark.parametrize("axes", [{"data": 4}, {"tensor": 2, "fsdp": 2}], ids=str)
def test_every_mesh_draws_the_same_tokens(axes):
    whole = tiny.prompts(4)
    want = run(prompt=whole)
    mesh = make_mesh(**axes)
    shardings = parameters.parameter_shardings(tiny.CONFIG, mesh)
    got = run(
        model=tiny.model(mesh=mesh),
        params=jax.tree.map(jax.device_put, tiny.params(), shardings),
        prompt=sharding.place(mesh, whole, prompts.LETTERS),
    )
    np.testing.assert_array_equal(got.tokens, want.tokens)
