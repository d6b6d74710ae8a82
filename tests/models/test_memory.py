"""What a backward pass keeps in memory, read off compiled programs."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.models import VLM
from rrft_jax.plan import hlo
from tests import tiny


def traced_gradient(tokens, **fields):
    """The gradient of `score` over prompts without pictures, of a deeper model."""
    sizes = dataclasses.replace(tiny.CONFIG, text=dataclasses.replace(tiny.CONFIG.text, depth=12))
    model, prompt = VLM(sizes, **fields), tiny.prompts(len(tokens))
    prompt = prompt.replace(patches=prompt.patches[:, :0])
    params = jax.eval_shape(model.init, jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda p: model.score(p, prompt, tokens).sum()))
    return gradient.trace(params)


def gradient_of_score(tokens, **fields):
    """The same, compiled."""
    return traced_gradient(tokens, **fields).lower().compile()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_rematerialisation_keeps_what_its_name_says(dtype):
    """Everything, the results of products and attention, or a layer's input alone."""
    tokens, _ = tiny.completions(3, 4, 96)
    none, dots, full = (
        gradient_of_score(tokens, remat=remat, dtype=dtype) for remat in ("none", "dots", "full")
    )
    memory = [x.memory_analysis().temp_size_in_bytes for x in (none, dots, full)]
    assert memory[2] < 0.7 * memory[1] and memory[1] < 0.8 * memory[0]
    flops = [hlo.cost(x.as_text()).flops for x in (none, dots, full)]
    assert flops[0] == flops[1] < 0.9 * flops[2]


def largest_array_with(hlo: str, size: int) -> int:
    """Elements of the largest array in a program that has an axis of this size."""
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", hlo)
    sizes = [[int(n) for n in shape.split(",")] for shape in set(shapes)]
    return max((int(np.prod(shape)) for shape in sizes if size in shape), default=0)


@pytest.mark.parametrize("most, chunk", [(96, 96), (8, 8), (64, 48)])
def test_logits_exist_for_one_chunk_of_tokens_at_a_time(most, chunk):
    """Chunks are of equal length, so that few tokens are padding."""
    tokens, _ = tiny.completions(3, 4, 96)
    hlo = gradient_of_score(tokens, logit_chunk=most).as_text()
    vocabulary = tiny.CONFIG.text.vocab_size
    assert largest_array_with(hlo, vocabulary) == 3 * 4 * chunk * vocabulary


def outside_loops(jaxpr):
    """Every equation of a program that no loop repeats."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name not in ("scan", "while"):
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
                if hasattr(inner, "jaxpr"):
                    yield from outside_loops(inner.jaxpr)


def test_nothing_as_large_as_the_logits_of_a_chunk_outlives_it():
    """Not even zeros: what doesn't depend on the chunk is computed before the loop, and kept."""
    tokens, _ = tiny.completions(3, 4, 96)
    equations = list(outside_loops(traced_gradient(tokens, logit_chunk=8).jaxpr.jaxpr))
    shapes = {x.aval.shape for equation in equations for x in equation.outvars}
    assert (3, 4, 96, tiny.CONFIG.text.width) in shapes
    assert (3, 4, 8, tiny.CONFIG.text.vocab_size) not in shapes
