"""A model of a few thousand parameters and random prompts for it, for tests of everything else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax.data.positions import patch_rows_cols
from rrft_jax.models import VLM, Prompt, VLMConfig
from rrft_jax.models.families import qwen2_5_vl, qwen2_vl, qwen3_vl

_VISION = dict(depth=2, width=16, heads=4, mlp_width=32, out_width=32)
_OTHERS = dict(
    text=dict(
        vocab_size=64,
        width=32,
        depth=2,
        heads=4,
        kv_heads=2,
        mlp_width=48,
        rope_theta=1e4,
        mrope_sections=(2, 1, 1),
        norm_eps=1e-6,
        tied=True,
    ),
    tokens=dict(
        image_token=60,
        video_token=61,
        vision_start_token=62,
        vision_end_token=63,
    ),
)
CONFIG = qwen2_vl.make_config(vision=_VISION, **_OTHERS)
# A window is one visual token, and the second block sees whole pictures.
WINDOWS = qwen2_5_vl.make_config(vision=dict(_VISION, window_side=2, whole_blocks=(1,)), **_OTHERS)
# The first layer adds a feature to the visual tokens, the second has none.
DEEP = qwen3_vl.make_config(
    vision=dict(_VISION, position_side=3, deepstack=(0,)),
    text=dict(_OTHERS["text"], head_size=16, mrope_sections=(3, 3, 2)),
    tokens=_OTHERS["tokens"],
)
STOP, PAD = 1, 0


@functools.cache
def model(**fields) -> VLM:
    return dataclasses.replace(VLM(CONFIG, logit_chunk=4), **fields)


@functools.cache
def params(config: VLMConfig = CONFIG) -> dict:
    """Random weights whose distributions are far from flat.

    The embedding is large and the layers are as initialised. Larger layers would make gradients
    ill-conditioned: at four times their size, a change of one rounding in the weights moves the
    gradient by a thousandth of its maximum, and no comparison of two orders of summation holds.
    """
    params = jax.jit(model(config=config).init)(jax.random.key(0))
    params["language"]["embed"]["embedding"] *= 25.0
    return params


def prompts(batch: int = 2, length: int = 9, seed: int = 0) -> Prompt:
    """Rows that differ in text, padding and pictures: every third has none, the others 2 x 4."""
    rng = np.random.default_rng(seed)
    patches, visual = 8, 2
    tokens = rng.integers(2, 60, (batch, length))
    padding = np.arange(batch) % 3
    for row in range(batch):
        if row % 3 != 2:
            tokens[row, 3 : 3 + visual] = CONFIG.image_token
    index = np.arange(length)
    positions = np.maximum(index - padding[:, None], 0)
    has_image = (np.arange(batch) % 3 != 2)[:, None]
    return jax.tree.map(
        jnp.asarray,
        Prompt(
            tokens=tokens.astype(np.int32),
            mask=index >= padding[:, None],
            positions=np.broadcast_to(positions, (3, batch, length)).astype(np.int32),
            next_position=(length - padding).astype(np.int32),
            patches=rng.normal(size=(batch, patches, 1176)).astype(np.float32),
            patch_rows_cols=rng.integers(0, 4, (batch, patches, 2)).astype(np.int32),
            patch_image=np.where(has_image, 0, -1) * np.ones((batch, patches), np.int32),
        ),
    )


def with_grids(prompt: Prompt) -> Prompt:
    """The same prompts, their patches in the places of real pictures, as windows need them."""
    return prompt.replace(
        patch_rows_cols=jnp.broadcast_to(patch_rows_cols(2, 4, 2), prompt.patch_rows_cols.shape)
    )


def completions(batch: int = 2, group: int = 3, length: int = 6, seed: int = 0):
    """(tokens [B,G,T], mask [B,G,T]) with ends of all lengths."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 60, (batch, group, length)).astype(np.int32)
    lengths = rng.integers(1, length + 1, (batch, group, 1))
    return jnp.asarray(tokens), jnp.asarray(np.arange(length) < lengths)
