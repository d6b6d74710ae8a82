"""Qwen2-VL (https://arxiv.org/abs/2409.12191).

The tower: LayerNorm, plain MLPs with a quick GELU, attention inside whole pictures. The decoder is
Qwen2's.
"""

from collections.abc import Mapping
from typing import Any

from rrft_jax.models.config import VisionConfig, VLMConfig
from rrft_jax.models.families import qwen2
from rrft_jax.models.families.checks import check_problems
from rrft_jax.models.families.qwen2 import BLOCK
from rrft_jax.models.layers import MLP, LayerNorm
from rrft_jax.models.table import linear

TITLE = "Qwen2-VL"
_PARTS = {
    "norm": LayerNorm,
    "norm_eps": 1e-6,
    "mlp": MLP,
    "activation": "quick_gelu",
    "mlp_bias": True,
}

TABLE = qwen2.table(
    mlp=(
        *linear("vision/blocks/fc1", f"{BLOCK}.mlp.fc1", "W F", "DF"),
        *linear("vision/blocks/fc2", f"{BLOCK}.mlp.fc2", "F W", "FD"),
    ),
    norm_bias=True,
)


def make_config(
    vision: Mapping[str, Any], text: Mapping[str, Any], tokens: Mapping[str, int | None]
) -> VLMConfig:
    """Return the configuration of a model of these sizes.

    Args:
      vision: the fields of `VisionConfig` that are sizes.
      text: the fields of `TextConfig` that are sizes.
      tokens: the fields of `VLMConfig` that are tokens.
    """
    return VLMConfig(
        vision=VisionConfig(**_PARTS, **vision), text=qwen2.make_text(text), table=TABLE, **tokens
    )


# The released models, for everything that needs their sizes and not their weights.
RELEASED = {
    name: make_config(
        vision={"depth": 32, "width": 1280, "heads": 16, "mlp_width": 5120, "out_width": width},
        text={
            "vocab_size": vocabulary,
            "width": width,
            "depth": 28,
            "heads": heads,
            "kv_heads": kv_heads,
            "mlp_width": mlp_width,
            "tied": tied,
            **qwen2.RELEASED_TEXT,
        },
        tokens=qwen2.RELEASED_TOKENS,
    )
    for name, width, heads, kv_heads, mlp_width, vocabulary, tied in (
        ("2b", 1536, 12, 2, 8960, 151_936, True),
        ("7b", 3584, 28, 4, 18_944, 152_064, False),
    )
}


def read(raw: Mapping[str, Any], where: str) -> VLMConfig:
    """Return the configuration for a config.json's content; `where` is its path in messages."""
    sizes = raw["vision_config"]
    act = sizes.get("hidden_act", "quick_gelu")
    qwen2.check_variants({"vision_config.hidden_act": (act, "quick_gelu")}, TITLE, where)
    vision = VisionConfig(
        **_PARTS,
        **qwen2.patch_sizes(sizes),
        depth=sizes["depth"],
        width=sizes["embed_dim"],
        heads=sizes["num_heads"],
        mlp_width=int(sizes["embed_dim"] * sizes.get("mlp_ratio", 4)),
        out_width=sizes.get("hidden_size", {**raw, **raw.get("text_config", {})}["hidden_size"]),
    )
    config = qwen2.read(raw, vision, TABLE, TITLE, where)
    check_problems(
        {
            "vision_config.embed_dim is not a multiple of 4 x num_heads": vision.width
            % (4 * vision.heads),
            "vision_config.hidden_size is not the decoder's": vision.out_width != config.text.width,
        },
        where,
    )
    return config


def write(config: VLMConfig) -> dict[str, Any]:
    """Return the content of config.json for a configuration, as the released files lay it out."""
    vision = config.vision
    ratio = vision.mlp_width / vision.width
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        **qwen2.write(config),
        "vision_config": {
            "depth": vision.depth,
            "embed_dim": vision.width,
            "hidden_size": vision.out_width,
            "mlp_ratio": int(ratio) if ratio.is_integer() else ratio,  # transformers wants an int
            "num_heads": vision.heads,
            **qwen2.write_patch_sizes(vision),
        },
    }
