"""Qwen2.5-VL (https://arxiv.org/abs/2502.13923).

The tower: RMSNorm, gated MLPs with SiLU and biases, attention inside windows of a picture and, in a
few blocks, inside the whole picture. The decoder is Qwen2's.
"""

from collections.abc import Mapping
from typing import Any

from rrft_jax.models.config import VisionConfig, VLMConfig
from rrft_jax.models.families import qwen2
from rrft_jax.models.families.checks import check_problems
from rrft_jax.models.families.qwen2 import BLOCK
from rrft_jax.models.layers import GatedMLP, RMSNorm
from rrft_jax.models.table import linear

TITLE = "Qwen2.5-VL"
_PARTS = {
    "norm": RMSNorm,
    "norm_eps": 1e-6,
    "mlp": GatedMLP,
    "activation": "silu",
    "mlp_bias": True,
}

TABLE = qwen2.table(
    mlp=(
        *linear("vision/blocks/gate", f"{BLOCK}.mlp.gate_proj", "W F", "DF"),
        *linear("vision/blocks/up", f"{BLOCK}.mlp.up_proj", "W F", "DF"),
        *linear("vision/blocks/down", f"{BLOCK}.mlp.down_proj", "F W", "FD"),
    ),
    norm_bias=False,
)


def make_config(
    vision: Mapping[str, Any], text: Mapping[str, Any], tokens: Mapping[str, int | None]
) -> VLMConfig:
    """Return the configuration of a model of these sizes.

    Args:
      vision: the fields of `VisionConfig` that are sizes, or that tell of windows.
      text: the fields of `TextConfig` that are sizes.
      tokens: the fields of `VLMConfig` that are tokens.
    """
    return VLMConfig(
        vision=VisionConfig(**_PARTS, **vision), text=qwen2.make_text(text), table=TABLE, **tokens
    )


# The released models, for everything that needs their sizes and not their weights.
RELEASED = {
    f"qwen2_5_vl_{name}": make_config(
        vision={
            "depth": 32,
            "width": 1280,
            "heads": 16,
            "mlp_width": tower_mlp,
            "out_width": width,
            "window_side": 8,
            "whole_blocks": (7, 15, 23, 31),
        },
        text={
            "vocab_size": vocabulary,
            "width": width,
            "depth": depth,
            "heads": heads,
            "kv_heads": kv_heads,
            "mlp_width": mlp_width,
            "tied": tied,
            **qwen2.RELEASED_TEXT,
        },
        tokens=qwen2.RELEASED_TOKENS,
    )
    for name, tower_mlp, width, depth, heads, kv_heads, mlp_width, vocabulary, tied in (
        ("3b", 3420, 2048, 36, 16, 2, 11_008, 151_936, True),
        ("7b", 3420, 3584, 28, 28, 4, 18_944, 152_064, False),
        ("32b", 3456, 5120, 64, 40, 8, 27_648, 152_064, False),
        ("72b", 3456, 8192, 80, 64, 8, 29_568, 152_064, False),
    )
}


def read(raw: Mapping[str, Any], where: str) -> VLMConfig:
    """Return the configuration for a config.json's content; `where` is its path in messages."""
    sizes = raw["vision_config"]
    act = sizes.get("hidden_act", "silu")
    qwen2.check_variants({"vision_config.hidden_act": (act, "silu")}, TITLE, where)
    patches = qwen2.patch_sizes(sizes)
    merge = patches["merge_size"]
    vision = VisionConfig(
        **_PARTS,
        **patches,
        depth=sizes["depth"],
        width=sizes["hidden_size"],
        heads=sizes["num_heads"],
        mlp_width=sizes["intermediate_size"],
        out_width=sizes.get("out_hidden_size", 3584),
        # A window holds whole visual tokens.
        window_side=sizes.get("window_size", 112) // patches["patch_size"] // merge * merge,
        whole_blocks=tuple(sizes.get("fullatt_block_indexes", (7, 15, 23, 31))),
    )
    config = qwen2.read(raw, vision, TABLE, TITLE, where)
    check_problems(
        {
            "vision_config.hidden_size is not a multiple of 4 x num_heads": vision.width
            % (4 * vision.heads),
            "vision_config.out_hidden_size is not the decoder's": vision.out_width
            != config.text.width,
            "vision_config.window_size is smaller than a visual token": not vision.window_side,
        },
        where,
    )
    return config


def write(config: VLMConfig) -> dict[str, Any]:
    """Return the content of config.json for a configuration, as the released files lay it out."""
    vision = config.vision
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **qwen2.write(config),
        "vision_config": {
            "depth": vision.depth,
            "fullatt_block_indexes": list(vision.whole_blocks),
            "hidden_act": vision.activation,
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_heads": vision.heads,
            "out_hidden_size": vision.out_width,
            "window_size": vision.window_side * vision.patch_size,
            **qwen2.write_patch_sizes(vision),
        },
    }
