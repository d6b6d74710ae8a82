"""The three attentions by JAX's splash attention, for TPUs (block-sparse FlashAttention-2).

It has two masks: a static mask, whose empty blocks cost nothing, and segments, which are data. The
static mask holds the order of tokens and the bounds of completions. Segments hide padding. A query
that sees nothing would be NaN, so every query sees itself, and padding sees padding.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Bool, Float, Int

from rrft_jax.models.arrays import Array
from rrft_jax.models.layers import ATTENTION

BLOCKS = (512, 256, 128)  # tokens that a kernel handles at a time
PADDING, REAL = 0, 1  # the segments of a prompt


def segment(
    q: Float[Array, "B S H C"],
    k: Float[Array, "B S H C"],
    v: Float[Array, "B S H C"],
    segments: Int[Array, "B S"],
    longest: int | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, "B S H C"]:
    mask = masks.FullMask if longest is None else local_mask(longest)
    return _attend_within(q, k, v, segments, mask, interpret)


def causal(
    q: Float[Array, "B P H C"],
    k: Float[Array, "B P K C"],
    v: Float[Array, "B P K C"],
    mask: Bool[Array, "B P"],
    *,
    interpret: bool = False,
) -> Float[Array, "B P H C"]:
    return _attend_within(q, k, v, mask.astype(jnp.int32), masks.CausalMask, interpret)


def group(
    q: Float[Array, "B G T H C"],
    prompt_k: Float[Array, "B P K C"],
    prompt_v: Float[Array, "B P K C"],
    prompt_mask: Bool[Array, "B P"],
    own_k: Float[Array, "B G T K C"],
    own_v: Float[Array, "B G T K C"],
    *,
    interpret: bool = False,
) -> Float[Array, "B G T H C"]:
    """Run `group` in one call: a prompt's completions form one sequence after the prompt's keys.

    Prompt and completions begin at the edge of a block, so that a query's block reads only the
    blocks of its prompt and of its own past.
    """
    batch, number, length = q.shape[:3]
    block = _block(length)
    prompt_k, prompt_v = (_pad(x, 1, block) for x in (prompt_k, prompt_v))
    q, own_k, own_v = (_pad(x, 2, block) for x in (q, own_k, own_v))
    padded, shape = prompt_k.shape[1], q.shape
    q, own_k, own_v = (x.reshape(batch, -1, *x.shape[3:]) for x in (q, own_k, own_v))
    keys = jnp.concatenate([prompt_k, own_k], axis=1)
    values = jnp.concatenate([prompt_v, own_v], axis=1)
    own_segments = jnp.full(q.shape[:2], REAL, jnp.int32)
    prompt_segments = _pad(prompt_mask.astype(jnp.int32), 1, block)
    segments = jnp.concatenate([prompt_segments, own_segments], axis=1)
    mask = _SharedPrompt(padded, number, shape[2])
    attended = _attend(q, keys, values, own_segments, segments, _Kernel(mask, block, interpret))
    return attended.reshape(shape)[:, :, :length]


def local_mask(longest: int) -> Callable[[tuple[int, int]], masks.Mask]:
    """Return the mask of segments of at most `longest` tokens: further blocks are skipped."""
    return functools.partial(masks.LocalMask, window_size=(longest - 1, longest - 1), offset=0)


@dataclasses.dataclass(frozen=True)
class _SharedPrompt(masks.Mask):
    """The mask of completions, one after the other, over the keys [prompt, completions]."""

    prompt: int  # tokens
    completions: int
    length: int  # tokens of each

    @property
    def shape(self) -> tuple[int, int]:
        own = self.completions * self.length
        return (own, self.prompt + own)

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (np.arange(size)[part] for size, part in zip(self.shape, index))
        rows, columns = rows[:, None], columns[None, :] - self.prompt
        same = rows // self.length == columns // self.length
        return (columns < 0) | (same & (columns <= rows))


def _attend_within(
    q: Float[Array, "B S H C"],
    k: Float[Array, "B S K C"],
    v: Float[Array, "B S K C"],
    segments: Int[Array, "B S"],
    mask: Callable[[tuple[int, int]], masks.Mask],
    interpret: bool,
) -> Float[Array, "B S H C"]:
    """Attend inside the segments of a sequence, under a mask of its square."""
    length = q.shape[1]
    block = _block(length)
    q, k, v = (_pad(x, 1, block) for x in (q, k, v))
    segments = _pad(segments, 1, block, value=-2)  # the id of no patch and of no token
    kernel = _Kernel(mask((q.shape[1], q.shape[1])), block, interpret)
    return _attend(q, k, v, segments, segments, kernel)[:, :length]


class _Kernel(NamedTuple):
    """The static mask of a kernel, the size of its blocks, and whether it is interpreted."""

    mask: masks.Mask
    block: int
    interpret: bool


def _attend(
    q: Float[Array, "B Q H C"],
    k: Float[Array, "B S K C"],
    v: Float[Array, "B S K C"],
    q_segments: Int[Array, "B Q"],
    kv_segments: Int[Array, "B S"],
    how: _Kernel,
) -> Float[Array, "B Q H C"]:
    heads = q.shape[2]
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([how.mask] * heads),
        block_sizes=splash.BlockSizes(**dict.fromkeys(_BLOCK_SIZES, how.block)),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENTION,
        interpret=how.interpret,
    )

    def one(q, k, v, q_segments, kv_segments):
        return kernel(q, k, v, segment_ids=splash.SegmentIds(q_segments, kv_segments))

    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    return jnp.swapaxes(jax.vmap(one)(q, k, v, q_segments, kv_segments), 1, 2)


_BLOCK_SIZES = (
    "block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
    "block_kv_dkv_compute", "block_q_dq", "block_kv_dq",
)  # fmt: skip


def _block(length: int) -> int:
    """Return the largest block that adds at most an eighth of padding, else the smallest."""
    fitting = [block for block in BLOCKS if -length % block <= length / 8]
    return fitting[0] if fitting else BLOCKS[-1]


def _pad(x: Array, axis: int, block: int, value: int = 0) -> Array:
    width = [(0, 0)] * x.ndim
    width[axis] = (0, -x.shape[axis] % block)
    return jnp.pad(x, width, constant_values=value)
