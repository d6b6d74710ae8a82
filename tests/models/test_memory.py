"""What a backward pass keeps in memory, read off compiled programs."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from rrft_jax.models import VLM
from tests import tiny


def gradient_of_score(tokens, **fields):
    """The compiled gradient of `score` over prompts without pictures, of a deeper model."""
    sizes = dataclasses.replace(tiny.CONFIG, text=dataclasses.replace(tiny.CONFIG.text, depth=6))
    model, prompt = VLM(sizes, **fields), tiny.prompts(len(tokens))
    prompt = prompt.replace(patches=prompt.patches[:, :0])
    params = jax.eval_shape(model.init, jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda p: model.score(p, prompt, tokens).sum()))
    return gradient.lower(params).compile()


def test_rematerialisation_keeps_what_its_name_says():
    """Everything, products with weights alone, or a layer's input alone."""
    tokens, _ = tiny.completions(3, 4, 96)
    none, dots, full = (
        gradient_of_score(tokens, remat=remat).memory_analysis().temp_size_in_bytes
        for remat in ("none", "dots", "full")
    )
    assert full < 0.7 * dots and dots < 0.8 * none


def largest_array_with(hlo: str, size: int) -> int:
    """Elements of the largest array in a program that has an axis of this size."""
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", hlo)
    sizes = [[int(n) for n in shape.split(",")] for shape in set(shapes)]
    return max((int(np.prod(shape)) for shape in sizes if size in shape), default=0)


@pytest.mark.parametrize("chunk", [96, 8])
def test_logits_exist_for_one_chunk_of_tokens_at_a_time(chunk):
    tokens, _ = tiny.completions(3, 4, 96)
    hlo = gradient_of_score(tokens, logit_chunk=chunk).as_text()
    vocabulary = tiny.CONFIG.text.vocab_size
    assert largest_array_with(hlo, vocabulary) == 3 * 4 * chunk * vocabulary
