"""Both layouts of config.json are read to the same sizes; other models are turned away."""

import pytest

from rrft_jax.errors import UserError
from rrft_jax.models import families

VISION = {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 4, "hidden_size": 64}
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 500,
    "rms_norm_eps": 1e-6,
}
IDS = {"image_token_id": 7, "video_token_id": 8, "vision_start_token_id": 5}
NESTED = {
    "model_type": "qwen2_vl",
    "tie_word_embeddings": True,
    **IDS,
    "vision_end_token_id": 6,
    "vision_config": VISION,
    "text_config": {
        **TEXT,
        "rope_parameters": {"rope_theta": 5e5, "rope_type": "default", "mrope_section": [2, 3, 3]},
    },
}
FLAT = {
    "model_type": "qwen2_vl",
    "tie_word_embeddings": True,
    **IDS,
    "vision_end_token_id": 6,
    "vision_config": VISION,
    **TEXT,
    "rope_theta": 5e5,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
}


def test_both_layouts_give_the_same_sizes():
    config = families.read(NESTED)
    assert config == families.read(FLAT)
    assert hash(config) == hash(families.read(FLAT))
    assert config.text.mrope_sections == (2, 3, 3)
    assert config.text.rope_theta == 5e5
    assert config.text.tied
    assert config.vision.mlp_width == 128
    assert config.vision.patch_values == 1176


def test_visual_tokens_are_those_that_are_never_sampled():
    assert set(families.read(NESTED).visual_tokens) == {5, 6, 7, 8}
    with_pad = families.read({**NESTED, "vision_token_id": 9})
    assert set(with_pad.visual_tokens) == {5, 6, 7, 8, 9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "'llama'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [2, 3, 3]}}, "yarn"),
    ],
)
def test_what_is_not_this_model_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        families.read({**FLAT, **change})


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "vision_config"])
def test_a_missing_size_is_named(key):
    with pytest.raises(UserError, match=f"'{key}' is missing"):
        families.read({k: v for k, v in FLAT.items() if k != key})


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 501},
        {"rms_norm_eps": 1e-5},
        {"rope_theta": 1e6},
        {"rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}},
    ],
)
def test_sizes_that_stand_at_both_levels_are_the_same(change):
    both = {**FLAT, **NESTED}
    assert families.read(both) == families.read(NESTED)
    with pytest.raises(UserError, match=f"{next(iter(change))}.* is .*, but .*text_config.* is "):
        families.read({**both, **change})
