"""What cuDNN's fused attention computes, for CPUs: the meaning of all arguments that JAX hands it.

So the kernels' form for GPUs runs here from its beginning to its end, but for the library itself.
The backward pass is that of the library: it takes the normaliser and the result as data.
"""

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as library
from jax.interpreters import mlir


def pretend(monkeypatch):
    """Let JAX believe that cuDNN is here: what it would ask of a GPU while it traces."""
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(library, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(library, "is_cuda_compute_capability_equal", lambda _: False)


def install(monkeypatch):
    """Run this file in the place of cuDNN; it takes float32 and heads of any size too."""
    pretend(monkeypatch)
    monkeypatch.setattr(library, "check_layout", lambda *_: None)
    monkeypatch.setattr(library, "check_is_flash_attention", lambda *_, **__: None)
    monkeypatch.setattr(
        library, "get_large_negative_number", lambda dtype: jnp.asarray(-1e9, dtype)
    )
    for primitive, function in (
        (library._dot_product_attention_fwd_p_wrapper, forward),
        (library._dot_product_attention_bwd_p_wrapper, backward),
    ):
        lowering = mlir.lower_fun(function, multiple_results=True)
        mlir.register_lowering(primitive, lowering, platform="cpu")


def scores(q, k, bias, q_lengths, lengths, how):
    """Float32 scores [B,H,Q,S], minus infinity where a query sees no key."""
    k = jnp.repeat(k.astype(jnp.float32), q.shape[2] // k.shape[2], axis=2)
    scores = jnp.einsum("bqhc,bshc->bhqs", q.astype(jnp.float32), k) * how["scale"]
    if how["variadic_args"][0]:
        scores += bias.astype(jnp.float32)
    queries, keys = (jnp.arange(n) for n in scores.shape[2:])
    seen = jnp.ones(scores.shape, bool)
    if "CAUSAL" in how["mask_type"].name:
        seen &= keys <= queries[:, None]
    if "PADDING" in how["mask_type"].name:
        seen &= (keys < lengths[:, None])[:, None, None, :]
        seen &= (queries < q_lengths[:, None])[:, None, :, None]
    return jnp.where(seen, scores, -jnp.inf)


def softmax(scores, normaliser):
    """Weights, all 0 for a query that sees no key."""
    return jnp.where(scores > -jnp.inf, jnp.exp(scores - normaliser[..., None]), 0.0)


def forward(q, k, v, bias, q_lengths, lengths, *_, is_training, **how):
    pairs = scores(q, k, bias, q_lengths, lengths, how)
    normaliser = jax.nn.logsumexp(pairs, axis=-1)
    weights = softmax(pairs, normaliser)
    v = jnp.repeat(v.astype(jnp.float32), q.shape[2] // v.shape[2], axis=2)
    attended = jnp.einsum("bhqs,bshc->bqhc", weights, v).astype(q.dtype)
    return (attended, normaliser) if is_training else (attended,)


def backward(q, k, v, bias, q_lengths, lengths, *others, **how):
    *_, normaliser, attended, gradient = others
    assert not how["variadic_args"][1]  # nothing asks for the gradient of the bias
    group = q.shape[2] // k.shape[2]
    wide_k, wide_v = (jnp.repeat(x.astype(jnp.float32), group, axis=2) for x in (k, v))
    weights = softmax(scores(q, k, bias, q_lengths, lengths, how), normaliser)
    gradient, attended = (x.astype(jnp.float32) for x in (gradient, attended))
    along = jnp.einsum("bqhc,bqhc->bhq", gradient, attended)[..., None]
    of_weights = jnp.einsum("bqhc,bshc->bhqs", gradient, wide_v)
    of_scores = weights * (of_weights - along) * how["scale"]
    of_q = jnp.einsum("bhqs,bshc->bqhc", of_scores, wide_k)
    of_k = jnp.einsum("bhqs,bqhc->bshc", of_scores, q.astype(jnp.float32))
    of_v = jnp.einsum("bhqs,bqhc->bshc", weights, gradient)
    of_k, of_v = (x.reshape(*k.shape[:3], group, -1).sum(3) for x in (of_k, of_v))
    return [of_q.astype(q.dtype), of_k.astype(k.dtype), of_v.astype(v.dtype)]
