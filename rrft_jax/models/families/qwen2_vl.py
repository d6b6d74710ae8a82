"""Qwen2-VL (https://arxiv.org/abs/2409.12191).

The tower: LayerNorm, plain MLPs with a quick GELU, attention inside whole pictures. The decoder:
RMSNorm, gated MLPs with SiLU, biases on queries, keys and values, M-RoPE in three runs of
frequencies. Two layouts of config.json are in use: today's, with `text_config` and `vision_config`
side by side, and the first releases', with the decoder's sizes at the top level.
"""

from collections.abc import Mapping
from typing import Any

from rrft_jax.errors import UserError
from rrft_jax.models.config import Entry, Table, TextConfig, VisionConfig, VLMConfig
from rrft_jax.models.families.checks import check_problems
from rrft_jax.models.layers import MLP, GatedMLP, LayerNorm, RMSNorm
from rrft_jax.models.table import EMBEDDING, HEAD, linear, norm

_VISION = {
    "norm": LayerNorm,
    "norm_eps": 1e-6,
    "mlp": MLP,
    "activation": "quick_gelu",
    "mlp_bias": True,
}
_TEXT = {"norm": RMSNorm, "mlp": GatedMLP, "activation": "silu", "mlp_bias": False}

_TOWER, _BLOCK = "model.visual", "model.visual.blocks.{layer}"
_DECODER, _LAYER = "model.language_model", "model.language_model.layers.{layer}"

TABLE = Table(
    entries=(
        Entry(
            "vision/patch_embed/kernel",
            f"{_TOWER}.patch_embed.proj.weight",
            ("patch", "W"),
            ".D",
            "patches",
        ),
        *norm("vision/blocks/norm1", f"{_BLOCK}.norm1", "W"),
        *linear("vision/blocks/qkv", f"{_BLOCK}.attn.qkv", "W 3W", "DH"),
        *linear("vision/blocks/proj", f"{_BLOCK}.attn.proj", "W W", "HD"),
        *norm("vision/blocks/norm2", f"{_BLOCK}.norm2", "W"),
        *linear("vision/blocks/fc1", f"{_BLOCK}.mlp.fc1", "W F", "DF"),
        *linear("vision/blocks/fc2", f"{_BLOCK}.mlp.fc2", "F W", "FD"),
        *norm("vision/merger/norm", f"{_TOWER}.merger.ln_q", "W"),
        *linear("vision/merger/fc1", f"{_TOWER}.merger.mlp.0", "merged merged", "DF"),
        *linear("vision/merger/fc2", f"{_TOWER}.merger.mlp.2", "merged D", "FD"),
        Entry(EMBEDDING, f"{_DECODER}.embed_tokens.weight", ("V", "D"), "VD"),
        *norm("language/layers/input_norm", f"{_LAYER}.input_layernorm", "D", bias=False),
        *linear("language/layers/q", f"{_LAYER}.self_attn.q_proj", "D HC", "DH"),
        *linear("language/layers/k", f"{_LAYER}.self_attn.k_proj", "D KC", "DK"),
        *linear("language/layers/v", f"{_LAYER}.self_attn.v_proj", "D KC", "DK"),
        *linear("language/layers/o", f"{_LAYER}.self_attn.o_proj", "HC D", "HD", bias=False),
        *norm("language/layers/post_norm", f"{_LAYER}.post_attention_layernorm", "D", bias=False),
        *linear("language/layers/gate", f"{_LAYER}.mlp.gate_proj", "D F", "DF", bias=False),
        *linear("language/layers/up", f"{_LAYER}.mlp.up_proj", "D F", "DF", bias=False),
        *linear("language/layers/down", f"{_LAYER}.mlp.down_proj", "F D", "FD", bias=False),
        *norm("language/norm", f"{_DECODER}.norm", "D", bias=False),
        Entry(HEAD, "lm_head.weight", ("D", "V"), "DV", "transpose"),
    ),
    released=(
        (f"{_TOWER}.", "visual."),
        (f"{_DECODER}.layers.", "model.layers."),
        (f"{_DECODER}.embed_tokens.", "model.embed_tokens."),
        (f"{_DECODER}.norm.", "model.norm."),
    ),
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
        vision=VisionConfig(**_VISION, **vision),
        text=TextConfig(**_TEXT, **text),
        table=TABLE,
        **tokens,
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
            "rope_theta": 1e6,
            "mrope_sections": (16, 24, 24),
            "norm_eps": 1e-6,
            "tied": tied,
        },
        tokens={
            "image_token": 151655,
            "video_token": 151656,
            "vision_start_token": 151652,
            "vision_end_token": 151653,
            "vision_pad_token": 151654,
        },
    )
    for name, width, heads, kv_heads, mlp_width, vocabulary, tied in (
        ("2b", 1536, 12, 2, 8960, 151_936, True),
        ("7b", 3584, 28, 4, 18_944, 152_064, False),
    )
}


def read(raw: Mapping[str, Any], where: str) -> VLMConfig:
    """Return the configuration for a config.json's content; `where` is its path in messages."""
    text = {**raw, **raw.get("text_config", {})}
    vision = raw["vision_config"]
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    _check_variant(text, vision, rope, where)
    width, heads = text["hidden_size"], text["num_attention_heads"]
    config = make_config(
        vision={
            "depth": vision["depth"],
            "width": vision["embed_dim"],
            "heads": vision["num_heads"],
            "mlp_width": int(vision["embed_dim"] * vision.get("mlp_ratio", 4)),
            "out_width": vision.get("hidden_size", width),
            "in_channels": vision.get("in_channels", vision.get("in_chans", 3)),
            "patch_size": vision.get("patch_size", 14),
            "temporal_patch_size": vision.get("temporal_patch_size", 2),
            "merge_size": vision.get("spatial_merge_size", 2),
        },
        text={
            "vocab_size": text["vocab_size"],
            "width": width,
            "depth": text["num_hidden_layers"],
            "heads": heads,
            "kv_heads": text.get("num_key_value_heads") or heads,
            "mlp_width": text["intermediate_size"],
            "rope_theta": float(rope.get("rope_theta", text.get("rope_theta", 1e6))),
            "mrope_sections": tuple(rope.get("mrope_section", (16, 24, 24))),
            "norm_eps": text.get("rms_norm_eps", 1e-5),
            "tied": bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        },
        tokens={
            "image_token": raw.get("image_token_id", 151655),
            "video_token": raw.get("video_token_id", 151656),
            "vision_start_token": raw.get("vision_start_token_id", 151652),
            "vision_end_token": raw.get("vision_end_token_id", 151653),
            "vision_pad_token": raw.get("vision_token_id"),
        },
    )
    check_problems(_contradictions(config), where)
    return config


def _check_variant(
    text: Mapping[str, Any], vision: Mapping[str, Any], rope: Mapping[str, Any], where: str
) -> None:
    """Refuse settings that no released model has."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    unsupported = {
        "rope_type": kind not in ("default", "mrope") and kind,
        "use_sliding_window": text.get("use_sliding_window"),
        "hidden_act": text.get("hidden_act", "silu") != "silu" and text["hidden_act"],
        "vision_config.hidden_act": vision.get("hidden_act", "quick_gelu") != "quick_gelu"
        and vision["hidden_act"],
    }
    for name, value in unsupported.items():
        if value:
            raise UserError(f"{where}: {name}={value!r} is not a variant of Qwen2-VL known here")


def _contradictions(config: VLMConfig) -> dict[str, Any]:
    """Return sentence -> whether it is true, for sentences about sizes that may contradict."""
    text, vision = config.text, config.vision
    return {
        "hidden_size is not a multiple of num_attention_heads": text.width % text.heads,
        "num_attention_heads is not a multiple of num_key_value_heads": text.heads % text.kv_heads,
        "mrope_section doesn't add up to half a head": sum(text.mrope_sections) * 2
        != text.head_size,
        "vision_config.embed_dim is not a multiple of 4 x num_heads": vision.width
        % (4 * vision.heads),
        "vision_config.hidden_size is not the decoder's": vision.out_width != text.width,
    }
