"""The attention kernels of this device in bfloat16, beside the XLA form in float32 on the CPU.

Both compute from the same arguments, which are rounded to bfloat16: values, and the gradient of
every argument.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax.accelerator import scale
from rrft_jax.accelerator.findings import Finding, at_most, told
from rrft_jax.accelerator.scale import Attention
from rrft_jax.models.attention import KeyValues, dispatch

# Rounding to bfloat16 explains an error of 0.005. A mask that is off by one explains more than 0.1.
ERROR = 0.02


def check() -> Iterator[Finding]:
    """Yield the relative errors of each attention at each head size."""
    kernels = dispatch.choose("auto", None, jnp.bfloat16)
    yield told("kernels", kernels.form)
    sizes, cpu = scale.here(), jax.devices("cpu")[0]
    for head_size in sizes.head_sizes:
        for name, make in CASES.items():
            case = make(sizes.attention, head_size)
            value, gradient = jax.device_get(_run(kernels, jnp.bfloat16, *case))
            with jax.default_device(cpu):
                right, of_right = jax.device_get(_run(dispatch.PLAIN, jnp.float32, *case))
            label = f"{name}, head size {head_size}: relative error of the"
            yield at_most(f"{label} value", _error(value, right), ERROR)
            yield at_most(f"{label} gradient", max(map(_error, gradient, of_right)), ERROR)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _run(
    kernels: dispatch.Kernels,
    dtype: Any,
    attend: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    mask: jax.Array,
    is_real: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Return the attended values, and the gradient of a weighted sum of them by each array."""
    typed = tuple(x.astype(jnp.bfloat16).astype(dtype) for x in arrays)
    value, backward = jax.vjp(functools.partial(attend, kernels, mask), *typed)
    # Padding has no right value, so it gets no weight in the gradient.
    weight = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
    weight = jnp.where(is_real, weight, 0.0).astype(jnp.bfloat16)
    return jnp.where(is_real, value, 0), backward(weight.astype(dtype))


def _error(found: np.ndarray, right: np.ndarray) -> float:
    """Return the size of the difference as a share of the size of the right array."""
    found, right = found.astype(np.float32), right.astype(np.float32)
    return float(np.linalg.norm(found - right) / np.linalg.norm(right))


class Case(NamedTuple):
    """An attention and its arguments.

    Attributes:
      attend: (kernels, mask, *arrays) -> the attended values.
      arrays: queries, keys and values, float32.
      mask: which arguments are real, or the ids of segments; an argument of the program, because
        XLA would spend seconds on a constant.
      is_real: which results have a right value; it broadcasts against them.
    """

    attend: Callable[..., jax.Array]
    arrays: tuple[np.ndarray, ...]
    mask: np.ndarray
    is_real: np.ndarray


def _segment(sizes: Attention, head_size: int, longest: int | None = None) -> Case:
    """Return two pictures, or the windows of a picture, and some padding."""

    def attend(kernels, ids, q, k, v):
        return dispatch.segment(q, k, v, ids, kernels, longest)

    length = sizes.patches
    arrays = _random(*3 * [(sizes.prompts, length, sizes.heads, head_size)])
    index = np.arange(length)
    ids = index // longest if longest else np.where(index < length // 3, 0, 1)
    ids = np.where(index < length - length // 8, ids, -1).astype(np.int32)
    ids = np.tile(ids, (sizes.prompts, 1))
    return Case(attend, arrays, ids, (ids >= 0)[..., None, None])


def _windows(sizes: Attention, head_size: int) -> Case:
    return _segment(sizes, head_size, sizes.window)


def _causal(sizes: Attention, head_size: int) -> Case:
    def attend(kernels, mask, q, k, v):
        return dispatch.causal(q, k, v, mask, kernels)

    of_tokens = (sizes.prompts, sizes.prompt_tokens)
    own, of_keys = ((*of_tokens, n, head_size) for n in (sizes.heads, sizes.kv_heads))
    mask = _prompt_mask(sizes)
    return Case(attend, _random(own, of_keys, of_keys), mask, mask[..., None, None])


def _group(sizes: Attention, head_size: int) -> Case:
    def attend(kernels, mask, q, prompt_k, prompt_v, k, v):
        prompt = KeyValues(prompt_k, prompt_v)
        return dispatch.group(q, prompt, mask, KeyValues(k, v), kernels)

    group = (sizes.prompts, sizes.samples, sizes.new_tokens)
    of_prompt = (sizes.prompts, sizes.prompt_tokens, sizes.kv_heads, head_size)
    own = (*group, sizes.kv_heads, head_size)
    arrays = _random((*group, sizes.heads, head_size), of_prompt, of_prompt, own, own)
    return Case(attend, arrays, _prompt_mask(sizes), np.ones(5 * (1,), bool))


def _random(*shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)


def _prompt_mask(sizes: Attention) -> np.ndarray:
    """Return a mask of prompts that are padded on the left, each by another length."""
    padding = np.arange(sizes.prompts)[:, None] * (sizes.prompt_tokens // 4)
    return np.arange(sizes.prompt_tokens) >= padding


CASES = {"segment": _segment, "segment, windows": _windows, "causal": _causal, "group": _group}
