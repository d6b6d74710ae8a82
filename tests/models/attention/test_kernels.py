"""The kernels against the plain form, in values and gradients, on one device and on a mesh.

Splash attention runs here by interpretation. cuDNN doesn't: a stand-in computes what its arguments
mean, and that cuDNN would take them is seen when the program is lowered.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.errors import UserError
from rrft_jax.models import attention, vlm
from rrft_jax.models.attention import PLAIN, Kernels, KeyValues, splash, xla
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import hlo
from tests import tiny
from tests.models.attention import cudnn_stand_in

B, G, T, P, S, H, K, C = 4, 3, 70, 51, 140, 4, 2, 16


MASK = np.arange(P) >= np.array([[7], [0], [P - 1], [20]])
TOKENS_FIRST = MASK[:, ::-1]
SEGMENTS = np.array([[0] * 140, [0] * 60 + [1] * 80, [0] * 64 + [1] * 70 + [-1] * 6, [-1] * 140])
PICTURE = np.where(np.arange(S) < np.array([[140], [60], [134], [0]]), 0, -1)  # one at most

# The windows of three rows of pictures: at most 40 patches each, side by side, the rest padding.
LONGEST = 40
WINDOWS = np.array(
    [
        np.repeat(np.arange(4), [40, 40, 40, 20]),
        np.repeat([0, 1, 2, 3, 4, 5], [7, 40, 1, 39, 33, 20]),
        np.repeat([0, 1, 2, -1], [40, 5, 40, 55]),
        np.full(S, -1),
    ]
)


def arrays(dtype=jnp.float32, mask=MASK):
    rng = np.random.default_rng(0)

    def random(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    qkv = {
        "segment": [random(B, S, H, C) for _ in range(3)],
        "windows": [random(B, S, H, C) for _ in range(3)],
        "causal": [random(B, P, H, C), random(B, P, K, C), random(B, P, K, C)],
        "group": [random(B, G, T, H, C), random(B, G, T, K, C), random(B, G, T, K, C)],
    }
    weights = {name: random(*x[0].shape) for name, x in qkv.items()}
    # What padding sees is nobody's business.
    weights["picture"] = weights["segment"] * (PICTURE >= 0)[..., None, None]
    weights["causal"] *= mask[..., None, None]
    weights["windows"] *= (WINDOWS >= 0)[..., None, None]
    return qkv, weights


def total(kernels, mask, qkv, weights):
    """A number that depends on every result that is read."""
    q, k, v = qkv["causal"]
    group_q, own_k, own_v = qkv["group"]
    results = {
        "segment": attention.segment(*qkv["segment"], SEGMENTS, kernels),
        "picture": attention.segment(*qkv["segment"], PICTURE, kernels),
        "windows": attention.segment(*qkv["windows"], WINDOWS, kernels, LONGEST),
        "causal": attention.causal(q, k, v, mask, kernels),
        "group": attention.group(group_q, KeyValues(k, v), mask, KeyValues(own_k, own_v), kernels),
    }
    parts = jax.tree.map(lambda x, w: jnp.sum(x.astype(jnp.float32) * w), results, weights)
    return sum(parts.values()), parts


def run(kernels, mask=MASK):
    qkv, weights = arrays(mask=mask)
    both = jax.jit(jax.grad(lambda x: total(kernels, mask, x, weights), has_aux=True))
    return both(qkv)


@pytest.fixture(scope="module")
def plain():
    return run(PLAIN)


def assert_same(got, want):
    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())

    jax.tree.map(close, got, want)


def test_splash_equals_the_plain_form(plain):
    assert_same(run(Kernels("splash")), plain)


@pytest.mark.parametrize("axes", [{"data": 2, "tensor": 2}, {"fsdp": 2, "tensor": 4}])
def test_splash_on_a_mesh_equals_the_plain_form(plain, axes):
    """Two key/value heads go to two devices; for four they stay whole."""
    assert_same(run(Kernels("splash", make_mesh(**axes))), plain)


@pytest.mark.parametrize("axes", [{}, {"fsdp": 2, "tensor": 2}])
def test_cudnn_is_asked_for_what_the_plain_form_computes(monkeypatch, axes):
    cudnn_stand_in.install(monkeypatch)
    plain = run(PLAIN, TOKENS_FIRST)
    assert_same(run(Kernels("cudnn", make_mesh(**axes) if axes else None), TOKENS_FIRST), plain)


@pytest.mark.parametrize("axes", [{}, {"fsdp": 2, "tensor": 2}])
def test_cudnn_takes_what_it_is_asked_for(monkeypatch, axes):
    cudnn_stand_in.pretend(monkeypatch)
    qkv, weights = arrays(jnp.bfloat16)
    kernels = Kernels("cudnn", make_mesh(**axes))
    gradient = jax.jit(jax.grad(functools.partial(total, kernels, TOKENS_FIRST), has_aux=True))
    text = gradient.trace(qkv, weights).lower(lowering_platforms=("cuda",)).as_text()
    # Arrays of all pairs: for windows, and in the branches for several pictures.
    assert text.count("fmhaScaleBiasSoftmaxBackward") == 3
    # Numbers of keys: for prompts, their completions' share of them, and in the other branches.
    assert text.count("fmhaSoftmaxBackward") == 5


@pytest.mark.parametrize("is_causal", [False, True])
def test_the_stand_in_for_cudnn_computes_what_jax_says_of_its_arguments(monkeypatch, is_causal):
    cudnn_stand_in.install(monkeypatch)
    q, k, v = (x[:, : P - 1] for x in arrays()[0]["causal"])  # JAX takes even lengths alone
    lengths = {"query_seq_lengths": [50, 3, 9, 50], "key_value_seq_lengths": [44, 50, 1, 31]}
    lengths = {name: jnp.asarray(x, jnp.int32) for name, x in lengths.items()}

    def both(implementation):
        def attend(*qkv):
            return jax.nn.dot_product_attention(
                *qkv, is_causal=is_causal, implementation=implementation, **lengths
            )

        attended, pull = jax.vjp(attend, q, k, v)
        return attended, pull(jnp.sin(q))

    assert_same(jax.jit(both, static_argnums=0)("cudnn"), both("xla"))


# Windows of at most 40 patches that never cross an edge of a block of 40, and one that does.
ALIGNED = np.tile(np.repeat([0, 1, 2, 3, 4, -1], [40, 20, 20, 40, 10, 10]), (B, 1))
CROSSING = np.where(np.arange(B)[:, None] == 1, WINDOWS, ALIGNED)


@pytest.mark.parametrize("ids, blocks", [(WINDOWS, 9), (ALIGNED, 2), (WINDOWS, 2), (CROSSING, 1)])
def test_windows_see_what_the_plain_form_shows_them(monkeypatch, ids, blocks):
    """In chunks of so many blocks; gradients too."""
    monkeypatch.setattr(xla, "MOST_BLOCK_SCORES", blocks * B * H * 3 * LONGEST**2)
    qkv, weights = arrays()[0]["windows"], np.where(ids >= 0, 1.0, 0.0)[..., None, None]

    def both(longest):
        def total(qkv):
            attended = attention.segment(*qkv, ids, longest=longest) * weights
            return jnp.sum(jnp.sin(attended)), attended

        return jax.jit(jax.grad(total, has_aux=True))(qkv)

    got, want = both(LONGEST), both(None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), got, want)


def test_the_backward_pass_of_windows_keeps_each_key_about_once():
    qkv = [jnp.zeros((1, 64 * LONGEST, H, C)) for _ in range(3)]
    ids = np.arange(64 * LONGEST)[None] // LONGEST
    _, pull = jax.vjp(lambda *qkv: attention.segment(*qkv, ids, longest=LONGEST), *qkv)
    kept = sum(x.nbytes for x in jax.tree.leaves(pull))
    assert kept < 1.2 * sum(x.nbytes for x in qkv)


@pytest.mark.parametrize("form", ["xla", "splash"])
def test_the_cost_of_windows_grows_with_the_patches_and_not_with_their_square(form):
    """By the products of a compiled program, or by the pairs that a kernel's mask shows."""

    def cost(patches):
        if form == "splash":
            return float(splash.local_mask(LONGEST)((patches, patches))[:, :].sum())
        q, ids = jax.ShapeDtypeStruct((1, patches, 2, 16), jnp.float32), np.zeros((1, patches), int)
        windows = jax.jit(lambda q: attention.segment(q, q, q, ids, longest=64))
        return hlo.cost(windows.lower(q).compile().as_text()).flops

    assert 3.5 < cost(2048) / cost(512) < 4.5


def test_splash_never_looks_at_another_completion():
    """By block: every completion reads its prompt and itself."""
    mask = splash._SharedPrompt(prompt=256, completions=3, length=128)
    whole = mask[:, :]
    blocks = whole.reshape(3, 128, 5, 128).any((1, 3))
    assert blocks.tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 0, 1]]
    own = whole[128:256, 256 + 128 : 256 + 256]
    np.testing.assert_array_equal(own, np.tril(np.ones((128, 128), bool)))
    np.testing.assert_array_equal(mask[130:140, 300:600], whole[130:140, 300:600])


@pytest.mark.parametrize("length, block", [(64, 128), (512, 512), (700, 256), (600, 128)])
def test_blocks_are_large_where_that_adds_little_padding(length, block):
    assert splash._block(length) == block


def test_the_model_scores_the_same_by_splash():
    prompt, (tokens, _) = tiny.prompts(3), tiny.completions(3, 4, 6)
    plain, kernel = (
        jax.jit(tiny.model(attention=form).score)(tiny.params(), prompt, tokens)
        for form in ("xla", "splash")
    )
    np.testing.assert_allclose(kernel, plain, atol=1e-5)


def test_the_model_computes_the_same_by_cudnn_whose_prompts_have_their_padding_last(monkeypatch):
    prompt, (tokens, _), params = tiny.prompts(3), tiny.completions(3, 4, 6), tiny.params(tiny.DEEP)
    cudnn_stand_in.install(monkeypatch)
    monkeypatch.setattr(vlm, "choose", lambda form, *_: Kernels(form))  # in float32 too
    assert not prompt.mask[1:, 0].any()

    @functools.partial(jax.jit, static_argnums=0)
    def run(form):
        model = tiny.model(config=tiny.DEEP, attention=form)
        hidden, caches = model.prefill(params, prompt)
        seen = prompt.mask[:, None, :, None]
        read = [(k * jnp.swapaxes(seen, 2, 3), v * seen) for k, v in caches]
        return model.score(params, prompt, tokens), hidden, read

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), run("cudnn"), run("xla"))


def test_kernels_follow_the_devices_unless_they_are_chosen():
    mesh = make_mesh(data=2)
    assert attention.choose("auto", mesh, jnp.bfloat16) == Kernels("xla", mesh)
    assert attention.choose("auto", None, jnp.float32) == PLAIN
    assert attention.choose("cudnn", None, jnp.bfloat16).form == "cudnn"
    with pytest.raises(UserError, match="model.attention: 'flash' is not one of auto, xla"):
        attention.choose("flash", None, jnp.float32)
    with pytest.raises(UserError, match="compute_dtype=bfloat16"):
        attention.choose("cudnn", None, jnp.float32)
