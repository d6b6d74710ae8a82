"""Both layouts of config.json are read to the same sizes; other models are turned away."""

import copy
import functools
import re

import pytest

from rrft_jax.errors import UserError
from rrft_jax.models import families, table

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
# As the released Qwen2.5-VL-3B-Instruct writes it, with other sizes.
WINDOWED = {
    "model_type": "qwen2_5_vl",
    **{key: value for key, value in FLAT.items() if key not in ("model_type", "vision_config")},
    "use_sliding_window": False,
    "vision_config": {
        "depth": 4,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 84,
        "num_heads": 2,
        "in_chans": 3,
        "out_hidden_size": 64,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
    },
}
# As released Qwen3-VL folders write it, with other sizes.
DEEP = {
    "model_type": "qwen3_vl",
    "tie_word_embeddings": True,
    **IDS,
    "vision_end_token_id": 6,
    "text_config": {
        **TEXT,
        "model_type": "qwen3_vl_text",
        "attention_bias": False,
        "head_dim": 32,
        "hidden_act": "silu",
        "rope_theta": 5000000,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [6, 5, 5],
            "rope_type": "default",
        },
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "deepstack_visual_indexes": [1, 3],
        "depth": 4,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 32,
        "in_channels": 3,
        "intermediate_size": 84,
        "model_type": "qwen3_vl",
        "num_heads": 2,
        "num_position_embeddings": 49,
        "out_hidden_size": 64,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}


def deep(text=(), vision=()):
    """`DEEP` with other values; None leaves a key out."""

    def changed(old, new):
        return {key: x for key, x in {**old, **dict(new)}.items() if x is not None}

    return {
        **DEEP,
        "text_config": changed(DEEP["text_config"], text),
        "vision_config": changed(DEEP["vision_config"], vision),
    }


def test_a_tower_with_deepstack_is_read_as_it_was_released_and_as_it_is_saved_today():
    config = families.read(DEEP)
    rope = {**DEEP["text_config"]["rope_scaling"], "rope_theta": 5e6}
    saved = {"rope_theta": None, "rope_scaling": None, "rope_parameters": rope}
    axial = {"rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}}
    assert config == families.read(deep(saved, axial))
    vision, text = config.vision, config.text
    assert (vision.position_side, vision.deepstack, vision.patch_values) == (7, (1, 3), 1536)
    assert (text.width, text.heads, text.head_size, text.rope_theta) == (64, 4, 32, 5e6)
    assert (text.qkv_bias, text.qk_norm, text.mrope_sections) == (False, True, (6, 5, 5))
    assert config.vision_pad_token is None


@pytest.mark.parametrize(
    ("text", "vision", "message"),
    [
        ({"attention_bias": True}, {}, "attention_bias=True is not a variant of Qwen3-VL"),
        ({"hidden_act": "gelu"}, {}, "hidden_act='gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, {}, "rope_type='yarn'"),
        ({"rope_scaling": {"mrope_interleaved": False}}, {}, "mrope_interleaved=False"),
        ({"rope_theta": None}, {}, "'rope_theta' is missing"),
        ({"head_dim": None}, {}, "'head_dim' is missing"),
        ({"head_dim": 16}, {}, "mrope_section doesn't add up to half a head"),
        ({"num_key_value_heads": 3}, {}, "num_attention_heads is not a multiple of num_key_value"),
        ({"num_hidden_layers": 1}, {}, "has more blocks than the decoder has layers"),
        ({}, {"hidden_act": "quick_gelu"}, "vision_config.hidden_act='quick_gelu'"),
        ({}, {"rope_parameters": {"rope_theta": 5.0}}, "vision_config.rope_theta=5.0"),
        ({}, {"deepstack_visual_indexes": [1, 4]}, "names a block that is not there"),
        ({}, {"deepstack_visual_indexes": [-1]}, "names a block that is not there"),
        ({}, {"deepstack_visual_indexes": [3, 1]}, "deepstack_visual_indexes does not ascend"),
        ({}, {"deepstack_visual_indexes": None}, "'deepstack_visual_indexes' is missing"),
        ({}, {"num_position_embeddings": 50}, "is not the square of a number"),
        ({}, {"num_heads": 3}, "vision_config.hidden_size is not a multiple of 4 x num_heads"),
        ({}, {"out_hidden_size": 32}, "out_hidden_size is not the decoder's"),
        ({"rope_scaling": {"mrope_section": [20, -2, -2]}}, {}, "one number for each of three"),
        ({"rope_scaling": {"mrope_section": [6, 10]}}, {}, "one number for each of three axes"),
    ],
)
def test_another_deepstack_model_is_refused_in_one_line(text, vision, message):
    with pytest.raises(UserError, match=message) as error:
        families.read(deep(text, vision))
    assert "\n" not in str(error.value)


def test_a_tower_without_features_has_no_mergers_for_them():
    config = families.read(deep(vision={"deepstack_visual_indexes": []}))
    assert not [entry.path for entry in table.entries(config) if "deepstack" in entry.path]


def test_a_tower_with_windows_is_read_from_both_layouts():
    config = families.read(WINDOWED)
    nested = {**NESTED, **{key: WINDOWED[key] for key in ("model_type", "vision_config")}}
    assert config == families.read(nested)
    vision = config.vision
    assert (vision.width, vision.mlp_width, vision.out_width) == (32, 84, 64)
    assert (vision.window_side, vision.whole_blocks) == (8, (1, 3))
    assert config.text == families.read(FLAT).text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "vision_config.hidden_act='gelu' is not a variant of Qwen2.5-VL"),
        ({"out_hidden_size": 32}, "out_hidden_size is not the decoder's"),
        ({"hidden_size": 36}, "vision_config.hidden_size is not a multiple of 4 x num_heads"),
        ({"window_size": 14}, "window_size is smaller than a visual token"),
    ],
)
def test_a_tower_that_is_not_this_one_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        families.read({**WINDOWED, "vision_config": {**WINDOWED["vision_config"], **change}})


def test_released_models_are_named_with_their_family():
    assert families.title("7b") == "Qwen2-VL 7B"
    assert families.title("qwen2_5_vl_3b") == "Qwen2.5-VL 3B"
    assert families.title("tiny") == families.TITLES == "Qwen2-VL, Qwen2.5-VL or Qwen3-VL"


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


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (NESTED, {"text_config": None}, "text_config is None, expected an object"),
        (NESTED, {"text_config": "qwen2_vl_text"}, "text_config is 'qwen2_vl_text', expected an"),
        (FLAT, {"vision_config": [1]}, r"vision_config is \[1\], expected an object"),
        (
            NESTED,
            {"text_config": {**NESTED["text_config"], "model_type": "qwen3_vl_moe_text"}},
            "text_config.model_type is 'qwen3_vl_moe_text', expected 'qwen2_vl_text', as",
        ),
    ],
)
def test_sections_that_are_none_of_this_model_are_refused(base, change, message):
    with pytest.raises(UserError, match=message) as error:
        families.read({**base, **change})
    assert "\n" not in str(error.value)


def test_a_section_may_name_its_model():
    for own in ("qwen2_vl", "qwen2_vl_text"):
        text = {**NESTED["text_config"], "model_type": own}
        assert families.read({**NESTED, "text_config": text}) == families.read(NESTED)


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


def _sizes(part, place=()):
    """The paths of all numbers in a config.json but those of tokens."""
    for key, value in part.items():
        if isinstance(value, dict):
            yield from _sizes(value, (*place, key))
        elif type(value) in (int, float) and not key.endswith(("token_id", "per_second")):
            yield (*place, key)


UNREAD = ("spatial_patch_size",)


@pytest.mark.parametrize("raw", [NESTED, FLAT, WINDOWED, DEEP], ids=lambda raw: raw["model_type"])
@pytest.mark.parametrize("value", [0, -56, "64", True, [16, 16], float("nan")], ids=repr)
def test_a_size_that_is_no_number_above_0_is_named(raw, value):
    for path in _sizes(raw):
        if path[-1] not in UNREAD:
            broken = copy.deepcopy(raw)
            part = functools.reduce(dict.__getitem__, path[:-1], broken)
            part[path[-1]] = value
            words = rf"{re.escape('.'.join(path))} is .*, expected a (whole )?number above 0; "
            with pytest.raises(UserError, match=words) as error:
                families.read(broken)
            assert "\n" not in str(error.value)
