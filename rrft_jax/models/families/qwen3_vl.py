"""Qwen3-VL, dense (https://arxiv.org/abs/2511.21631).

The tower: LayerNorm, plain MLPs with a GELU by tanh, attention inside whole pictures, a learned
table of positions that is interpolated to a picture's size, and deepstack: the outputs of three
blocks are features that the first layers of the decoder add to the visual tokens.

The decoder is Qwen3's (https://arxiv.org/abs/2505.09388). It differs from Qwen2's in the size of a
head, which is free, in norms of queries and keys, which replace biases, and in M-RoPE, whose axes
take turns. There is one layout of config.json, with `text_config` and `vision_config`.
"""

import math
from collections.abc import Mapping
from typing import Any

from rrft_jax.models.config import Entry, Table, TextConfig, VisionConfig, VLMConfig
from rrft_jax.models.families import qwen2
from rrft_jax.models.families.checks import check_problems
from rrft_jax.models.families.qwen2 import BLOCK, LAYER, TOWER
from rrft_jax.models.layers import MLP, GatedMLP, LayerNorm, RMSNorm
from rrft_jax.models.rotary import VISION_THETA
from rrft_jax.models.table import linear, norm

TITLE = "Qwen3-VL"
_VISION_PARTS = {
    "norm": LayerNorm,
    "norm_eps": 1e-6,
    "mlp": MLP,
    "activation": "gelu_tanh",
    "mlp_bias": True,
    "patch_bias": True,
}
_TEXT_PARTS = {
    "norm": RMSNorm,
    "mlp": GatedMLP,
    "activation": "silu",
    "mlp_bias": False,
    "qkv_bias": False,
    "qk_norm": True,
    "mrope_interleaved": True,
}


def _merger(path: str, name: str, normed: str) -> tuple[Entry, ...]:
    return (
        *norm(f"{path}/norm", f"{name}.norm", normed),
        *linear(f"{path}/fc1", f"{name}.linear_fc1", "merged merged", "DF"),
        *linear(f"{path}/fc2", f"{name}.linear_fc2", "merged D", "FD"),
    )


TABLE = Table(
    entries=(
        *linear("vision/patch_embed", f"{TOWER}.patch_embed.proj", "patch W", ".D", kind="patches"),
        Entry("vision/positions/embedding", f"{TOWER}.pos_embed.weight", ("positions", "W"), ".."),
        *norm("vision/blocks/norm1", f"{BLOCK}.norm1", "W"),
        *linear("vision/blocks/qkv", f"{BLOCK}.attn.qkv", "W 3W", "DH"),
        *linear("vision/blocks/proj", f"{BLOCK}.attn.proj", "W W", "HD"),
        *norm("vision/blocks/norm2", f"{BLOCK}.norm2", "W"),
        *linear("vision/blocks/fc1", f"{BLOCK}.mlp.linear_fc1", "W F", "DF"),
        *linear("vision/blocks/fc2", f"{BLOCK}.mlp.linear_fc2", "F W", "FD"),
        *_merger("vision/merger", f"{TOWER}.merger", "W"),
        *_merger("vision/deepstack", f"{TOWER}.deepstack_merger_list.{{layer}}", "merged"),
        *qwen2.decoder(qkv_bias=False),
        *norm("language/layers/q_norm", f"{LAYER}.self_attn.q_norm", "C", bias=False),
        *norm("language/layers/k_norm", f"{LAYER}.self_attn.k_norm", "C", bias=False),
    )
)


def make_config(
    vision: Mapping[str, Any], text: Mapping[str, Any], tokens: Mapping[str, int | None]
) -> VLMConfig:
    """Return the configuration of a model of these sizes.

    Args:
      vision: the other fields of `VisionConfig`: sizes, and the blocks of deepstack.
      text: the other fields of `TextConfig`, all of them sizes.
      tokens: the fields of `VLMConfig` that are tokens.
    """
    return VLMConfig(
        vision=VisionConfig(**_VISION_PARTS, **vision),
        text=TextConfig(**_TEXT_PARTS, **text),
        table=TABLE,
        **tokens,
    )


_SMALL_TOWER = {"depth": 24, "width": 1024, "mlp_width": 4096, "deepstack": (5, 11, 17)}
_LARGE_TOWER = {"depth": 27, "width": 1152, "mlp_width": 4304, "deepstack": (8, 16, 24)}

# The released models, for everything that needs their sizes and not their weights.
RELEASED = {
    f"qwen3_vl_{name}": make_config(
        vision={"heads": 16, "out_width": width, "patch_size": 16, "position_side": 48, **tower},
        text={
            "vocab_size": 151_936,
            "width": width,
            "depth": depth,
            "heads": heads,
            "kv_heads": 8,
            "head_size": 128,
            "mlp_width": mlp_width,
            "rope_theta": 5e6,
            "mrope_sections": (24, 20, 20),
            "norm_eps": 1e-6,
            "tied": tied,
        },
        tokens=qwen2.RELEASED_TOKENS,
    )
    for name, tower, width, depth, heads, mlp_width, tied in (
        ("2b", _SMALL_TOWER, 2048, 28, 16, 6144, True),
        ("4b", _SMALL_TOWER, 2560, 36, 32, 9728, True),
        ("8b", _LARGE_TOWER, 4096, 36, 32, 12_288, False),
        ("32b", _LARGE_TOWER, 5120, 64, 64, 25_600, False),
    )
}


def read(raw: Mapping[str, Any], where: str) -> VLMConfig:
    """Return the configuration for a config.json's content; `where` is its path in messages."""
    text, vision = raw["text_config"], raw["vision_config"]
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    axial = vision.get("rope_parameters") or {}
    activation = vision.get("hidden_act", "gelu_pytorch_tanh")
    qwen2.check_variants(
        {
            "attention_bias": (text.get("attention_bias", False), False),
            "hidden_act": (text.get("hidden_act", "silu"), "silu"),
            "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default", "mrope"),
            "mrope_interleaved": (rope.get("mrope_interleaved", True), True),
            "vision_config.hidden_act": (activation, "gelu_pytorch_tanh"),
            "vision_config.rope_type": (axial.get("rope_type", "axial"), "axial"),
            "vision_config.rope_theta": (axial.get("rope_theta", VISION_THETA), VISION_THETA),
        },
        TITLE,
        where,
    )
    theta = rope.get("rope_theta", text.get("rope_theta"))
    if theta is None:
        raise KeyError("rope_theta")  # the default of transformers is not that of released models
    positions = vision["num_position_embeddings"]
    config = make_config(
        vision={
            **qwen2.patch_sizes({"patch_size": 16, **vision}),
            "depth": vision["depth"],
            "width": vision["hidden_size"],
            "heads": vision["num_heads"],
            "mlp_width": vision["intermediate_size"],
            "out_width": vision["out_hidden_size"],
            "position_side": math.isqrt(positions),
            "deepstack": tuple(vision["deepstack_visual_indexes"]),
        },
        text={
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "depth": text["num_hidden_layers"],
            "heads": text["num_attention_heads"],
            "kv_heads": text["num_key_value_heads"],
            "head_size": text["head_dim"],
            "mlp_width": text["intermediate_size"],
            "rope_theta": float(theta),
            "mrope_sections": tuple(rope.get("mrope_section", (24, 20, 20))),
            "norm_eps": text.get("rms_norm_eps", 1e-6),
            "tied": bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        },
        tokens=qwen2.tokens(raw),
    )
    check_problems(
        {**_contradictions(config, positions), **qwen2.contradictions(config.text)}, where
    )
    return config


def _contradictions(config: VLMConfig, positions: int) -> dict[str, Any]:
    """Return sentence -> whether it is true, for sentences about the tower."""
    tower, blocks = config.vision, config.vision.deepstack
    return {
        "vision_config.hidden_size is not a multiple of 4 x num_heads": tower.width
        % (4 * tower.heads),
        "vision_config.out_hidden_size is not the decoder's": tower.out_width != config.text.width,
        "vision_config.num_position_embeddings is not the square of a number": positions
        != tower.position_side**2,
        "vision_config.deepstack_visual_indexes does not ascend": sorted(set(blocks))
        != list(blocks),
        "vision_config.deepstack_visual_indexes names a block that is not there": blocks
        and not 0 <= min(blocks) <= max(blocks) < tower.depth,
        "vision_config.deepstack_visual_indexes has more blocks than the decoder has layers": len(
            blocks
        )
        > config.text.depth,
    }


def write(config: VLMConfig) -> dict[str, Any]:
    """Return the content of config.json for a configuration, as the released files lay it out."""
    text, vision = config.text, config.vision
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": config.image_token,
        "video_token_id": config.video_token,
        "vision_start_token_id": config.vision_start_token,
        "vision_end_token_id": config.vision_end_token,
        "tie_word_embeddings": text.tied,
        "text_config": {
            "attention_bias": False,
            "head_dim": text.head_size,
            "hidden_act": "silu",
            "hidden_size": text.width,
            "intermediate_size": text.mlp_width,
            "max_position_embeddings": 262_144,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.depth,
            "num_key_value_heads": text.kv_heads,
            "rms_norm_eps": text.norm_eps,
            "rope_scaling": {
                "mrope_interleaved": True,
                "mrope_section": list(text.mrope_sections),
                "rope_type": "default",
            },
            "rope_theta": text.rope_theta,
            "tie_word_embeddings": text.tied,
            "vocab_size": text.vocab_size,
        },
        "vision_config": {
            "deepstack_visual_indexes": list(vision.deepstack),
            "depth": vision.depth,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": vision.width,
            "in_channels": vision.in_channels,
            "intermediate_size": vision.mlp_width,
            "model_type": "qwen3_vl",
            "num_heads": vision.heads,
            "num_position_embeddings": vision.position_side**2,
            "out_hidden_size": vision.out_width,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
        },
    }
