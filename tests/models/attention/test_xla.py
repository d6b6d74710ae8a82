"""The three attentions in plain JAX against loops over queries in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.models import attention
from rrft_jax.models.attention import KeyValues, xla


def numpy_attention(q, keys, values, seen):
    """One query [C] over keys and values [S,C], of which it sees some."""
    scores = np.where(seen, keys @ q / np.sqrt(len(q)), -np.inf)
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()


@pytest.fixture
def random():
    rng = np.random.default_rng(0)
    return lambda *shape: rng.normal(size=shape).astype(np.float32)


def test_segment_sees_its_own_picture_alone(random):
    q, k, v = (random(2, 7, 3, 4) for _ in range(3))
    segments = np.array([[0, 0, 0, 1, 1, -1, -1], [0, 0, 0, 0, 0, 0, 0]])
    got = attention.segment(q, k, v, segments)
    for b, s, h in np.ndindex(2, 7, 3):
        want = numpy_attention(q[b, s, h], k[b, :, h], v[b, :, h], segments[b] == segments[b, s])
        np.testing.assert_allclose(got[b, s, h], want, atol=1e-5)


def test_ids_are_the_mask_of_their_pairs_to_the_last_bit(random, monkeypatch):
    q, k, v, weights = (random(2, 37, 3, 4) for _ in range(4))
    segments = np.array([[0] * 10 + [1] * 20 + [-1] * 7, [2] * 37])

    def by_pairs(q, k, v):
        pairs = segments[:, None, None, None, :, None] == segments[:, None, None, None, None]
        return xla._attend(q[:, None], [xla.Keys(k, v, pairs)])[:, 0]

    def run(attend):
        def total(*qkv):
            attended = attend(*qkv)
            return jnp.sum(attended * weights), attended

        return jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)

    for most in (xla.MOST_SCORES, 1):  # all queries at once, and in chunks
        monkeypatch.setattr(xla, "MOST_SCORES", most)
        jax.tree.map(
            np.testing.assert_array_equal,
            run(lambda *qkv: attention.segment(*qkv, segments)),
            run(by_pairs),
        )


def test_no_array_of_all_pairs_of_patches_is_stored():
    q, ids = jax.ShapeDtypeStruct((1, 4096, 2, 4), jnp.float32), np.zeros((1, 4096), np.int32)
    gradient = jax.jit(jax.grad(lambda q: attention.segment(q, q, q, ids).sum()))
    assert "4096,4096]" not in gradient.lower(q).compile().as_text()


def test_causal_sees_the_unpadded_past(random):
    q, k, v = random(2, 6, 4, 4), random(2, 6, 2, 4), random(2, 6, 2, 4)
    mask = np.arange(6) >= np.array([[2], [0]])
    got = np.asarray(attention.causal(q, k, v, mask))
    for b, p, h in np.ndindex(2, 6, 4):
        if mask[b, p]:
            seen = mask[b] & (np.arange(6) <= p)
            want = numpy_attention(q[b, p, h], k[b, :, h // 2], v[b, :, h // 2], seen)
            np.testing.assert_allclose(got[b, p, h], want, atol=1e-5)
    assert np.isfinite(got).all()  # padding that sees nothing too


def test_group_sees_its_prompt_and_its_own_past(random):
    batch, group, length, prompt = 2, 3, 4, 5
    q = random(batch, group, length, 4, 4)
    prompt_k, prompt_v = random(batch, prompt, 2, 4), random(batch, prompt, 2, 4)
    own_k, own_v = random(batch, group, length, 2, 4), random(batch, group, length, 2, 4)
    mask = np.arange(prompt) >= np.array([[1], [0]])
    past = np.tril(np.ones((length, length), bool))
    got = attention.group(q, KeyValues(prompt_k, prompt_v), mask, KeyValues(own_k, own_v))
    for b, g, t, h in np.ndindex(batch, group, length, 4):
        keys = np.concatenate([prompt_k[b, :, h // 2], own_k[b, g, :, h // 2]])
        values = np.concatenate([prompt_v[b, :, h // 2], own_v[b, g, :, h // 2]])
        seen = np.concatenate([mask[b], past[t]])
        want = numpy_attention(q[b, g, t, h], keys, values, seen)
        np.testing.assert_allclose(got[b, g, t, h], want, atol=1e-5)


def test_chunks_of_queries_change_neither_values_nor_gradients(random, monkeypatch):
    q, k, v = (random(2, 37, 2, 4) for _ in range(3))
    segments = np.arange(37)[None] // np.array([[10], [20]])

    own = random(2, 3, 37, 2, 4)
    prompt_mask = np.ones((2, 37), bool)

    def total(q, k, v, own):
        alone = attention.segment(q, k, v, segments)
        grouped = attention.group(own, KeyValues(k, v), prompt_mask, KeyValues(own, own))
        return (alone**2).sum() + (grouped**2).sum()

    def run():
        return jax.jit(lambda *x: jax.value_and_grad(total, (0, 1, 2, 3))(*x))(q, k, v, own)

    want = run()
    monkeypatch.setattr(xla, "MOST_SCORES", 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), run(), want)
