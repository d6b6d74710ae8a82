"""The annotations of shapes are checked in every test."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from rrft_jax.models import attention, rotary
from rrft_jax.models.attention import KeyValues
from tests import tiny


def test_a_wrong_shape_is_refused_inside_jit_too():
    angles = jnp.zeros((5, 4))
    assert rotary.rotate(jnp.zeros((5, 2, 8)), angles).shape == (5, 2, 8)
    for x in (jnp.zeros((5, 2, 6)), jnp.zeros((4, 2, 8))):
        with pytest.raises(jaxtyping.TypeCheckError):
            jax.jit(rotary.rotate)(x, angles)


def test_a_wrong_dtype_is_refused():
    q, mask = jnp.zeros((1, 3, 2, 4)), jnp.ones((1, 3))
    with pytest.raises(jaxtyping.TypeCheckError):
        attention.causal(q, q, q, mask)


def test_records_are_checked_where_their_arrays_are_used():
    q, mask = jnp.zeros((1, 2, 3, 2, 4)), jnp.ones((1, 5), bool)
    prompt, own = jnp.zeros((1, 5, 2, 4)), jnp.zeros((1, 2, 3, 2, 4))
    attention.group(q, KeyValues(prompt, prompt), mask, KeyValues(own, own))
    with pytest.raises(jaxtyping.TypeCheckError):
        attention.group(q, KeyValues(prompt, prompt[:, :4]), mask, KeyValues(own, own))


def test_the_methods_of_the_model_are_checked():
    tokens, _ = tiny.completions()
    with pytest.raises(jaxtyping.TypeCheckError):
        tiny.model().score(tiny.params(), tiny.prompts(), tokens[0])
