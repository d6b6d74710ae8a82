"""Deepstack costs a few features, and no array for each layer or block.

That its numbers are right is seen against transformers, in `test_vision.py` and `test_parity.py`.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import pytest

from rrft_jax.models import VLM
from tests import tiny

LAYERS, BLOCKS, WIDTH = 5, 7, 40  # no other axis has these sizes
BATCH, PROMPT, PATCHES = 2, 48, 128
DEEPSTACK = (1, 4)


@functools.cache
def gradient(deepstack, remat) -> jax.stages.Compiled:
    """The compiled gradient of the hidden states behind prompts, by all parameters."""
    sizes = dataclasses.replace(
        tiny.DEEP,
        text=dataclasses.replace(tiny.DEEP.text, depth=LAYERS, width=WIDTH),
        vision=dataclasses.replace(
            tiny.DEEP.vision, depth=BLOCKS, out_width=WIDTH, deepstack=deepstack
        ),
    )
    model = VLM(sizes, remat=remat)
    prompt = tiny.prompts(BATCH, PROMPT).replace(
        patches=jnp.zeros((BATCH, PATCHES, 1176)),
        patch_rows_cols=jnp.zeros((BATCH, PATCHES, 2), int),
        patch_image=jnp.zeros((BATCH, PATCHES), int),
    )
    params = jax.eval_shape(model.init, jax.random.key(0))
    program = jax.jit(jax.grad(lambda params: model.prefill(params, prompt)[0].sum()))
    return program.lower(params).compile()


def arrays_per_layer(hlo: str) -> set[str]:
    """The shapes of rank 4 or more whose first axis is that of layers or blocks, of numbers."""
    return set(re.findall(rf"\bf32\[((?:{LAYERS}|{BLOCKS})(?:,\d+){{3,}})\]", hlo))


@pytest.mark.parametrize("remat", ["none", "full"])
def test_no_array_holds_anything_more_for_each_layer(remat):
    """Neither zeros for the layers without a feature, nor outputs of blocks that nothing reads."""
    plain, deep = (arrays_per_layer(gradient(d, remat).as_text()) for d in ((), DEEPSTACK))
    assert f"{LAYERS},{BATCH},{PROMPT},{WIDTH}" in plain  # the inputs of layers
    assert deep <= plain


def test_the_memory_is_that_of_a_few_features():
    plain, deep = (
        gradient(d, "full").memory_analysis().temp_size_in_bytes for d in ((), DEEPSTACK)
    )
    slots = (len(DEEPSTACK) + 1) * BATCH * PATCHES * tiny.DEEP.vision.width
    features = len(DEEPSTACK) * BATCH * PATCHES // 4 * WIDTH
    mergers = len(DEEPSTACK) * 64 * (64 + WIDTH)  # their gradients
    assert deep - plain < 2 * 4 * (slots + features + mergers)
