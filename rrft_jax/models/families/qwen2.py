"""What Qwen2-VL and Qwen2.5-VL share: the decoder, and the tower's parameters outside its MLPs.

The decoder is that of Qwen2 (https://arxiv.org/abs/2407.10671): RMSNorm, gated MLPs with SiLU,
biases on queries, keys and values, M-RoPE in three runs of frequencies. Two layouts of config.json
are in use: today's, with `text_config` and `vision_config` side by side, and the first releases',
with the decoder's sizes at the top level.
"""

from collections.abc import Mapping
from typing import Any

from rrft_jax.errors import UserError
from rrft_jax.models.config import Entry, Table, TextConfig, VisionConfig, VLMConfig
from rrft_jax.models.families.checks import check_problems
from rrft_jax.models.layers import GatedMLP, RMSNorm
from rrft_jax.models.table import EMBEDDING, HEAD, linear, norm

_PARTS = {
    "norm": RMSNorm,
    "mlp": GatedMLP,
    "activation": "silu",
    "mlp_bias": False,
    "qkv_bias": True,
    "qk_norm": False,
    "mrope_interleaved": False,
}

TOWER, BLOCK = "model.visual", "model.visual.blocks.{layer}"
DECODER, LAYER = "model.language_model", "model.language_model.layers.{layer}"

# What the released models of both families have.
RELEASED_TEXT = {"rope_theta": 1e6, "mrope_sections": (16, 24, 24), "norm_eps": 1e-6}
RELEASED_TOKENS = {
    "image_token": 151655,
    "video_token": 151656,
    "vision_start_token": 151652,
    "vision_end_token": 151653,
    "vision_pad_token": 151654,
}


def decoder(qkv_bias: bool) -> tuple[Entry, ...]:
    """Return the entries of the decoder."""
    return (
        Entry(EMBEDDING, f"{DECODER}.embed_tokens.weight", ("V", "D"), "VD"),
        *norm("language/layers/input_norm", f"{LAYER}.input_layernorm", "D", bias=False),
        *linear("language/layers/q", f"{LAYER}.self_attn.q_proj", "D HC", "DH", qkv_bias),
        *linear("language/layers/k", f"{LAYER}.self_attn.k_proj", "D KC", "DK", qkv_bias),
        *linear("language/layers/v", f"{LAYER}.self_attn.v_proj", "D KC", "DK", qkv_bias),
        *linear("language/layers/o", f"{LAYER}.self_attn.o_proj", "HC D", "HD", bias=False),
        *norm("language/layers/post_norm", f"{LAYER}.post_attention_layernorm", "D", bias=False),
        *linear("language/layers/gate", f"{LAYER}.mlp.gate_proj", "D F", "DF", bias=False),
        *linear("language/layers/up", f"{LAYER}.mlp.up_proj", "D F", "DF", bias=False),
        *linear("language/layers/down", f"{LAYER}.mlp.down_proj", "F D", "FD", bias=False),
        *norm("language/norm", f"{DECODER}.norm", "D", bias=False),
        Entry(HEAD, "lm_head.weight", ("D", "V"), "DV", "transpose"),
    )


def table(mlp: tuple[Entry, ...], norm_bias: bool) -> Table:
    """Return the table of a family.

    Args:
      mlp: the entries of the MLP in a block of its tower.
      norm_bias: the norms of its tower have biases.
    """
    tower = (
        *linear(
            "vision/patch_embed", f"{TOWER}.patch_embed.proj", "patch W", ".D", False, "patches"
        ),
        *norm("vision/blocks/norm1", f"{BLOCK}.norm1", "W", norm_bias),
        *linear("vision/blocks/qkv", f"{BLOCK}.attn.qkv", "W 3W", "DH"),
        *linear("vision/blocks/proj", f"{BLOCK}.attn.proj", "W W", "HD"),
        *norm("vision/blocks/norm2", f"{BLOCK}.norm2", "W", norm_bias),
        *mlp,
        *norm("vision/merger/norm", f"{TOWER}.merger.ln_q", "W", norm_bias),
        *linear("vision/merger/fc1", f"{TOWER}.merger.mlp.0", "merged merged", "DF"),
        *linear("vision/merger/fc2", f"{TOWER}.merger.mlp.2", "merged D", "FD"),
    )
    return Table(
        entries=(*tower, *decoder(qkv_bias=True)),
        released=(
            (f"{TOWER}.", "visual."),
            (f"{DECODER}.layers.", "model.layers."),
            (f"{DECODER}.embed_tokens.", "model.embed_tokens."),
            (f"{DECODER}.norm.", "model.norm."),
        ),
    )


def make_text(sizes: Mapping[str, Any]) -> TextConfig:
    """Return the decoder of these sizes: the other fields of `TextConfig` without `head_size`."""
    return TextConfig(**_PARTS, head_size=sizes["width"] // sizes["heads"], **sizes)


def read(
    raw: Mapping[str, Any], vision: VisionConfig, table: Table, title: str, where: str
) -> VLMConfig:
    """Return the configuration for a config.json's content.

    Args:
      raw: the content.
      vision: its vision tower.
      table: the family's table of parameters.
      title: the family's name, for messages.
      where: the path of the file, for messages.

    Raises:
      UserError: a size contradicts another, or asks for an unknown variant.
    """
    text = {**raw, **raw.get("text_config", {})}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    check_variants(
        {
            "rope_type": (kind, "default", "mrope"),
            "use_sliding_window": (text.get("use_sliding_window"), None, False),
            "hidden_act": (text.get("hidden_act", "silu"), "silu"),
        },
        title,
        where,
    )
    heads = text["num_attention_heads"]
    decoder = make_text(
        {
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "depth": text["num_hidden_layers"],
            "heads": heads,
            "kv_heads": text.get("num_key_value_heads") or heads,
            "mlp_width": text["intermediate_size"],
            "rope_theta": float(rope.get("rope_theta", text.get("rope_theta", 1e6))),
            "mrope_sections": tuple(rope.get("mrope_section", (16, 24, 24))),
            "norm_eps": text.get("rms_norm_eps", 1e-5),
            "tied": bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        }
    )
    check_problems(
        {
            "hidden_size is not a multiple of num_attention_heads": decoder.width % heads,
            **contradictions(decoder),
        },
        where,
    )
    return VLMConfig(vision=vision, text=decoder, table=table, **tokens(raw))


def tokens(raw: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the fields of `VLMConfig` that are tokens."""
    return {
        "image_token": raw.get("image_token_id", 151655),
        "video_token": raw.get("video_token_id", 151656),
        "vision_start_token": raw.get("vision_start_token_id", 151652),
        "vision_end_token": raw.get("vision_end_token_id", 151653),
        "vision_pad_token": raw.get("vision_token_id"),
    }


def write(config: VLMConfig) -> dict[str, Any]:
    """Return the content of config.json outside its `vision_config`, as the released files have it.

    They state the decoder's sizes at the top level.
    """
    text = config.text
    ids = {
        "image_token_id": config.image_token,
        "video_token_id": config.video_token,
        "vision_start_token_id": config.vision_start_token,
        "vision_end_token_id": config.vision_end_token,
        "vision_token_id": config.vision_pad_token,
    }
    return {
        "hidden_act": "silu",
        "hidden_size": text.width,
        "intermediate_size": text.mlp_width,
        "max_position_embeddings": 32_768,
        "num_attention_heads": text.heads,
        "num_hidden_layers": text.depth,
        "num_key_value_heads": text.kv_heads,
        "rms_norm_eps": text.norm_eps,
        "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_sections)},
        "rope_theta": text.rope_theta,
        "tie_word_embeddings": text.tied,
        "use_sliding_window": False,
        "vocab_size": text.vocab_size,
        **{key: token for key, token in ids.items() if token is not None},
    }


def write_patch_sizes(vision: VisionConfig) -> dict[str, int]:
    """Return what `patch_sizes` reads."""
    return {
        "in_chans": vision.in_channels,
        "patch_size": vision.patch_size,
        "spatial_merge_size": vision.merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
    }


def patch_sizes(vision: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of patches and visual tokens that `vision_config` states."""
    return {
        "in_channels": int(vision.get("in_channels", vision.get("in_chans", 3))),
        "patch_size": int(vision.get("patch_size", 14)),
        "temporal_patch_size": int(vision.get("temporal_patch_size", 2)),
        "merge_size": int(vision.get("spatial_merge_size", 2)),
    }


def check_variants(settings: Mapping[str, tuple], title: str, where: str) -> None:
    """Refuse a setting, given as (value, known values ...), that no released model has."""
    for name, (value, *known) in settings.items():
        if value not in known:
            raise UserError(f"{where}: {name}={value!r} is not a variant of {title} known here")


def contradictions(text: TextConfig) -> dict[str, Any]:
    """Return sentence -> whether it is true, for sentences about sizes that may contradict."""
    return {
        "num_attention_heads is not a multiple of num_key_value_heads": text.heads % text.kv_heads,
        "mrope_section doesn't add up to half a head": sum(text.mrope_sections) * 2
        != text.head_size,
        "mrope_section is not one number for each of three axes": len(text.mrope_sections) != 3
        or min(text.mrope_sections) < 0,
    }
