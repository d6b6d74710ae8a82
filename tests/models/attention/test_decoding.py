"""The attention of a decoding step: its values, and that what it reads is read where it lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.models.attention import KeyValues
from rrft_jax.models.attention.decoding import Slots, attend

PROMPTS, GROUP, LENGTH, TIME, HEADS, KV_HEADS, SIZE = 3, 4, 96, 5, 4, 2, 16
LEFT = {"all rows": None, "some rows": np.array([[0, 1, 3, 9]], np.int32)}  # none of prompt 1


def arguments(left):
    """Of `attend`."""
    rng = np.random.default_rng(0)
    rows = PROMPTS * GROUP if left is None else left.size

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return (
        normal(rows, HEADS, SIZE),
        KeyValues(normal(PROMPTS, KV_HEADS, SIZE, LENGTH), normal(PROMPTS, KV_HEADS, LENGTH, SIZE)),
        jnp.arange(LENGTH) >= 7 * jnp.arange(PROMPTS)[:, None],
        KeyValues(normal(rows, KV_HEADS, SIZE, TIME), normal(rows, KV_HEADS, TIME, SIZE)),
        jnp.arange(TIME) < 3,
        None if left is None else Slots(jnp.asarray(left), GROUP),
    )


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_it_is_one_softmax_over_the_prompt_and_the_rows_own_tokens(left):
    got = np.asarray(jax.jit(attend)(*arguments(left)))
    q, prompt_kv, prompt_mask, own_kv, own_mask, slots = jax.device_get(arguments(left))
    (prompt_k, prompt_v), (own_k, own_v) = prompt_kv, own_kv
    places = np.arange(len(q)) if slots is None else slots.index.ravel()
    for row, head in np.ndindex(*q.shape[:2]):
        prompt, k = places[row] // GROUP, head * KV_HEADS // HEADS
        keys = np.concatenate(
            [prompt_k[prompt, k][:, prompt_mask[prompt]], own_k[row, k][:, own_mask]], axis=1
        )
        values = np.concatenate([prompt_v[prompt, k][prompt_mask[prompt]], own_v[row, k][own_mask]])
        weights = np.exp(q[row, head] @ keys / np.sqrt(SIZE))
        np.testing.assert_allclose(got[row, head], weights @ values / weights.sum(), atol=1e-5)


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_keys_and_values_go_into_the_products_as_they_lie_on_any_backend(left):
    """No copy for each row of a prompt, none in another order: their only use is a product."""
    jaxpr = jax.make_jaxpr(attend)(*arguments(left)).jaxpr
    _, prompt_k, prompt_v, _, own_k, own_v, *_ = jaxpr.invars
    for cache in (prompt_k, prompt_v, own_k, own_v):
        [(use, side)] = uses(jaxpr, cache)
        assert use.primitive.name == "dot_general"
        # Batch axes first, in order: what a matrix product of any library takes without a copy.
        assert use.params["dimension_numbers"][1][side] == (0, 1)


def uses(jaxpr, x):
    """(equation that reads a variable, which operand it is there), inside functions as well."""
    for equation in jaxpr.eqns:
        for place, operand in enumerate(equation.invars):
            if operand is x:
                inner = equation.params.get("jaxpr")
                here = [(equation, place)]
                yield from uses(inner.jaxpr, inner.jaxpr.invars[place]) if inner else here
