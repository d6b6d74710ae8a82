"""The group sampler: its tokens, masks, log-probabilities and randomness, whatever shapes it takes
on the way, and what its compiled loop does not do."""

import re

import jax
import numpy as np
import pytest

from rrft_jax.models import prompt as prompts
from rrft_jax.models import table
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import GenerationConfig, SamplingParams, generate, generation, sampler
from tests import tiny

LENGTH = 7
STOPS = tuple(range(2, 14))


def run(key=0, model=None, params=None, prompt=None, first_row=0, **options):
    options = {"num_generations": 4, "max_new_tokens": LENGTH, "stop_tokens": STOPS} | options
    return generate(
        model or tiny.model(),
        params or tiny.params(),
        tiny.prompts(3) if prompt is None else prompt,
        jax.random.key(key),
        GenerationConfig(pad_token=tiny.PAD, **options),
        first_row,
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
    hot = run(num_generations=16, sampling=SamplingParams(temperature=100.0), stop_tokens=())
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


def test_a_budget_ends_a_completion_and_leaves_its_tokens_alone(out):
    budget = np.arange(12).reshape(3, 4) % LENGTH + 1
    short = run(budget=budget)
    seen = out.mask & (np.arange(LENGTH) < budget[..., None])
    np.testing.assert_array_equal(short.mask, seen)
    np.testing.assert_array_equal(short.tokens, np.where(seen, out.tokens, tiny.PAD))
    np.testing.assert_array_equal(short.finished, out.finished & (out.mask.sum(-1) <= budget))


def test_sampled_log_probs_are_those_of_the_truncated_distribution():
    sampling = SamplingParams(0.7, 5, 0.9)
    out = jax.device_get(run(sampling=sampling, max_new_tokens=1))
    model, params, prompt = tiny.model(), tiny.params(), tiny.prompts(3)
    hidden, _ = model.prefill(params, prompt)
    logits = np.array(model.logits(params, hidden), np.float64)
    logits[:, list(tiny.CONFIG.visual_tokens)] = -np.inf
    for b, g in np.ndindex(3, 4):
        p = np.exp(logits[b] / 0.7)
        order = np.argsort(-p)[:5]
        p = p[order] / p[order].sum()
        p = p[: np.searchsorted(np.cumsum(p), 0.9) + 1]
        place = order.tolist().index(out.tokens[b, g, 0])
        want = np.log(p[place] / p.sum())
        assert out.rollout_log_probs[b, g, 0] == pytest.approx(want, abs=1e-4)


def test_draws_do_not_depend_on_the_batch(out):
    second = jax.tree.map(
        lambda name, x: x.take(np.array([1]), axis=name.index("B")),
        prompts.AXES,
        tiny.prompts(3),
    )
    alone = run(prompt=second, first_row=1)
    np.testing.assert_array_equal(alone.tokens[0], out.tokens[1])


def test_growing_the_cache_in_chunks_changes_nothing(out):
    np.testing.assert_array_equal(run(cache_chunk=3).tokens, out.tokens)


def test_caches_are_short_at_first_and_grow_in_chunks():
    assert generation.cache_lengths(256, 512) == [128, 256, 512]
    assert generation.cache_lengths(256, 600) == [128, 256, 512, 600]
    assert generation.cache_lengths(256, 200) == [128, 200]
    assert generation.cache_lengths(256, 64) == [64]
    assert generation.cache_lengths(128, 512) == [128, 256, 384, 512]
    assert generation.cache_lengths(3, 7) == [3, 6, 7]


def assert_same(got, want):
    """All of two `Rollouts`; log-probabilities to rounding."""
    for name in ("tokens", "mask", "finished"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    for name in ("log_probs", "rollout_log_probs"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=2e-5)


# Ends that let 4 prompts x 4 samples shrink to 8 rows (more than prompts), 4 and 2, at times when
# the cache has to grow as well, with all samples of some prompts left, and of others none.
ENDS = np.array([[20, 17, 3, 20], [1, 2, 3, 4], [9, 1, 1, 13], [2, 2, 5, 6]])


@pytest.fixture(scope="module")
def uncompacted():
    """Where no batch is small enough for a smaller program."""
    return jax.device_get(
        run(prompt=tiny.prompts(4), max_new_tokens=20, stop_tokens=(), budget=ENDS)
    )


@pytest.mark.parametrize(
    "axes",
    [{}, {"data": 2}, {"tensor": 2, "fsdp": 2}],
    ids=lambda axes: "-".join(axes) or "one device",
)
def test_compaction_changes_nothing_on_any_mesh(uncompacted, axes, monkeypatch):
    monkeypatch.setattr(generation, "COARSE", (1, 1, 1))
    shapes = []
    compact = generation.compact

    def noted(*args):
        shapes.append(args[-2])
        return compact(*args)

    monkeypatch.setattr(generation, "compact", noted)
    mesh = make_mesh(**axes)
    shardings = table.parameter_shardings(tiny.CONFIG, mesh)
    got = run(
        model=tiny.model(mesh=mesh),
        params=jax.tree.map(jax.device_put, tiny.params(), shardings),
        prompt=sharding.shard(mesh, tiny.prompts(4), prompts.AXES),
        max_new_tokens=20,
        stop_tokens=(),
        budget=ENDS,
        cache_chunk=8,
    )
    assert_same(jax.device_get(got), uncompacted)
    assert shapes == ([4, 2] if axes else [8, 4, 2])  # rows of a device


def test_other_sampling_parameters_compile_nothing_again(out):
    before = sampler.advance._cache_size()
    for sampling in (SamplingParams(0.5, 3, 0.9), SamplingParams(0.0), SamplingParams(1, 0, 0.5)):
        run(sampling=sampling)
    assert sampler.advance._cache_size() == before


def loop_body(mesh=None) -> tuple[str, str]:
    """All that the decoding loop runs, as optimised HLO; the types of a layer's keys and values."""
    model, params, prompt = tiny.model(mesh=mesh), tiny.params(), tiny.prompts(8)
    if mesh is not None:
        shardings = table.parameter_shardings(tiny.CONFIG, mesh)
        params = jax.tree.map(jax.device_put, params, shardings)
        prompt = sharding.shard(mesh, prompt, prompts.AXES)
    budget = np.full((8, 4), 24, np.int32)
    shards = 1 if mesh is None else mesh.size
    fixed = sampler.Fixed(model, max_new_tokens=24, stop_tokens=STOPS, pad_token=0, shards=shards)
    begun = sampler.begin(fixed, params, prompt, sampler.Draws(jax.random.key(0), 0, budget), 24)
    weights, sampling = model.decoding_weights(params), SamplingParams(1.0, 0, 1.0)
    text = sampler.advance.lower(fixed, weights, *begun, sampling, np.int32(0)).compile().as_text()
    computations = dict(re.findall(r"^(?:ENTRY )?(%\S+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    calling = r"(?:calls|to_apply|body|condition)=(%[\w.-]+)|branch_computations=\{([^}]*)\}"

    def reached(name: str) -> str:
        body = computations.pop(name, "")
        called = " ".join("".join(names) for names in re.findall(calling, body))
        return body + "".join(map(reached, re.findall(r"%[\w.-]+", called)))

    shapes = {x.sharding.shard_shape(x.shape) for x in begun[1].cache[0]}
    types = [re.escape(f"f32[{','.join(map(str, shape))}]") for shape in shapes]
    loops = re.findall(r" while\(.*?body=(%[\w.-]+)", text)
    return "".join(map(reached, loops)), f"(?:{'|'.join(types)})"


def test_the_loop_writes_into_the_cache_in_place():
    body, cache = loop_body()
    assert len(re.findall(rf"{cache}\S* dynamic-update-slice\(", body)) == 4  # 2 layers
    assert not re.findall(rf"{cache}\S* copy\(", body)


def test_the_loop_gathers_no_weight():
    body, cache = loop_body(make_mesh(fsdp=8))
    assert re.search(rf"{cache}\S* dynamic-update-slice\(", body)
    assert " all-gather(" not in body


def test_the_loop_gathers_no_logits_where_the_vocabulary_is_split():
    body, _ = loop_body(make_mesh(fsdp=4, tensor=2))
    gathered = re.findall(r"= \(?(f32|s32|bf16)\[([\d,]*)\]\S* all-gather\((.*)", body)
    rows, vocabulary = 8 * 4 // 4, tiny.CONFIG.text.vocab_size
    sizes = [np.prod(list(map(int, shape.split(",")))) for _, shape, _ in gathered]
    # The sums of the devices, and the candidates of top-k (all of a vocabulary as small as this).
    assert sizes
    assert all(size <= rows * vocabulary for size in sizes)
    assert sum(size == rows * vocabulary for size in sizes) <= 2, gathered  # top-k, top-p alone


def test_batches_shrink_finely_where_completions_may_be_long_and_else_by_halves():
    assert generation._sizes(112, 512) == [
        *(112, 95, 80, 67, 56, 48, 40, 34),  # by quarters of an octave
        *(28, 20, 14, 10, 7, 5, 4),  # by halves
    ]
    assert generation._sizes(112, 80) == [112, 56, 28, 14]
    assert generation._sizes(3, 512) == generation._sizes(3, 80) == [3]
