"""The axis that turns each frequency, against the angles of transformers themselves."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from rrft_jax.models import rotary

POSITIONS = np.random.default_rng(0).integers(0, 50, (3, 2, 7))


@pytest.mark.parametrize("sections", [(24, 20, 20), (6, 5, 5), (3, 3, 2), (10, 1, 1), (2, 3, 3)])
def test_interleaved_angles_are_those_of_transformers(sections):
    head = 2 * sum(sections)
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": list(sections)}
    config = Qwen3VLTextConfig(head_dim=head, rope_parameters=rope)
    module = Qwen3VLTextRotaryEmbedding(config)
    module.mrope_section = list(sections)
    cos, _ = module(torch.zeros(1), torch.tensor(POSITIONS))
    angles = rotary.text_angles(jnp.array(POSITIONS), head, 100.0, sections, True)
    np.testing.assert_allclose(np.cos(angles), cos[..., : head // 2], atol=1e-5)


def test_other_angles_have_one_axis_behind_the_other():
    positions = np.array([1, 10, 100]).reshape(3, 1)
    angles = rotary.text_angles(positions, 16, 1.0, (3, 3, 2), False)
    np.testing.assert_array_equal(angles[0], [1, 1, 1, 10, 10, 10, 100, 100])
    angles = rotary.text_angles(positions, 16, 1.0, (3, 3, 2), True)
    np.testing.assert_array_equal(angles[0], [1, 10, 100, 1, 10, 100, 1, 10])
