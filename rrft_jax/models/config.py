"""The sizes of a Qwen2-VL, read from a checkpoint's `config.json`.

Two layouts are in use: today's, with `text_config` and `vision_config` side by side, and the one
of the first releases, with the text sizes at the top level.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rrft_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower. `mlp_width` is its F; `out_width` is the decoder's D."""

    depth: int
    width: int
    heads: int
    mlp_width: int
    out_width: int
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2

    @property
    def head_size(self) -> int:
        return self.width // self.heads

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened patch (1176 for the released models)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder. `mrope_sections` are the numbers of frequencies for time, row and column."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    mlp_width: int
    rope_theta: float
    mrope_sections: tuple[int, int, int]
    norm_eps: float
    tied: bool

    @property
    def head_size(self) -> int:
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class VLMConfig:
    """Both towers and the tokens that stand for pictures. Hashable: it is a static argument."""

    vision: VisionConfig
    text: TextConfig
    image_token: int
    video_token: int
    vision_start_token: int
    vision_end_token: int
    vision_pad_token: int | None = None  # of the tokenizer; not every config.json has it

    @property
    def visual_tokens(self) -> tuple[int, ...]:
        """The tokens that only a prompt may hold: they are never sampled."""
        ids = (self.image_token, self.video_token, self.vision_start_token, self.vision_end_token)
        return ids if self.vision_pad_token is None else (*ids, self.vision_pad_token)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config.json") -> "VLMConfig":
        """Reads the content of a `config.json`.

        Raises:
          UserError: not a Qwen2-VL, its weights are quantised, a size is missing or has two values,
            or a variant that the model doesn't have.
        """
        if raw.get("model_type") != "qwen2_vl":
            raise UserError(
                f"{where}: model_type is {raw.get('model_type')!r}, expected 'qwen2_vl'; "
                "give the folder of a Qwen2-VL checkpoint"
            )
        try:
            _check_whole(raw, where)
            _check_doubled(raw, where)
            config = _read(raw, where)
        except UserError:
            raise
        except KeyError as error:
            raise UserError(f"{where}: {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{where}: a size is not a number ({error})") from None
        _check(config, where)
        return config


# The released Qwen2-VL-2B and 7B, for what needs their sizes and not their weights.
RELEASED = {
    name: VLMConfig(
        vision=VisionConfig(depth=32, width=1280, heads=16, mlp_width=5120, out_width=width),
        text=TextConfig(
            vocab_size=vocabulary,
            width=width,
            depth=28,
            heads=heads,
            kv_heads=kv_heads,
            mlp_width=mlp_width,
            rope_theta=1e6,
            mrope_sections=(16, 24, 24),
            norm_eps=1e-6,
            tied=tied,
        ),
        image_token=151655,
        video_token=151656,
        vision_start_token=151652,
        vision_end_token=151653,
        vision_pad_token=151654,
    )
    for name, width, heads, kv_heads, mlp_width, vocabulary, tied in (
        ("2b", 1536, 12, 2, 8960, 151_936, True),
        ("7b", 3584, 28, 4, 18_944, 152_064, False),
    )
}


_DOUBLED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
)


def _read(raw: Mapping[str, Any], where: str) -> VLMConfig:
    text = {**raw, **raw.get("text_config", {})}
    vision = raw["vision_config"]
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
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
    width, heads = text["hidden_size"], text["num_attention_heads"]
    return VLMConfig(
        vision=VisionConfig(
            depth=vision["depth"],
            width=vision["embed_dim"],
            heads=vision["num_heads"],
            mlp_width=int(vision["embed_dim"] * vision.get("mlp_ratio", 4)),
            out_width=vision.get("hidden_size", width),
            in_channels=vision.get("in_channels", vision.get("in_chans", 3)),
            patch_size=vision.get("patch_size", 14),
            temporal_patch_size=vision.get("temporal_patch_size", 2),
            merge_size=vision.get("spatial_merge_size", 2),
        ),
        text=TextConfig(
            vocab_size=text["vocab_size"],
            width=width,
            depth=text["num_hidden_layers"],
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            mlp_width=text["intermediate_size"],
            rope_theta=float(rope.get("rope_theta", text.get("rope_theta", 1e6))),
            mrope_sections=tuple(rope.get("mrope_section", (16, 24, 24))),
            norm_eps=text.get("rms_norm_eps", 1e-5),
            tied=bool(raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")),
        ),
        image_token=raw.get("image_token_id", 151655),
        video_token=raw.get("video_token_id", 151656),
        vision_start_token=raw.get("vision_start_token_id", 151652),
        vision_end_token=raw.get("vision_end_token_id", 151653),
        vision_pad_token=raw.get("vision_token_id"),
    )


def _check_whole(raw: Mapping[str, Any], where: str) -> None:
    """Weights in few bits can't be trained as they are."""
    for config in (raw, raw.get("text_config") or {}):
        for key in ("quantization_config", "compression_config", "quantization"):
            if settings := config.get(key):
                method = settings.get("quant_method") or settings.get("mode")
                method = method or "of an unknown method"
                raise UserError(
                    f"{where}: these weights are quantised ({key}: {method}), and only whole ones "
                    "can be trained; give the checkpoint in float32, bfloat16 or float16"
                )


def _check_doubled(raw: Mapping[str, Any], where: str) -> None:
    """Sizes that stand at the top level and in `text_config` too: readers differ in which they use.

    A head that is tied in one place alone is no contradiction: some writers leave the other out.
    """
    stated: dict[str, dict[str, Any]] = {}
    for place, text in (("", raw), ("text_config.", raw.get("text_config") or {})):
        for key in _DOUBLED:
            stated.setdefault(key, {})[place + key] = text.get(key)
        for name in ("rope_parameters", "rope_scaling"):
            rope = text.get(name) or {}
            for key in ("rope_theta", "mrope_section"):
                stated.setdefault(key, {})[f"{place}{name}.{key}"] = rope.get(key)
    for values in stated.values():
        (one, value), *others = [(k, v) for k, v in values.items() if v is not None] or [("", None)]
        for other, another in others:
            if another != value:
                raise UserError(
                    f"{where}: {one} is {value}, but {other} is {another}; correct the one that is "
                    "wrong, or download the folder again"
                )


def _check(config: VLMConfig, where: str) -> None:
    """Sizes that contradict each other."""
    text, vision = config.text, config.vision
    problems = {
        "hidden_size is not a multiple of num_attention_heads": text.width % text.heads,
        "num_attention_heads is not a multiple of num_key_value_heads": text.heads % text.kv_heads,
        "mrope_section doesn't add up to half a head": sum(text.mrope_sections) * 2
        != text.head_size,
        "vision_config.embed_dim is not a multiple of 4 x num_heads": vision.width
        % (4 * vision.heads),
        "vision_config.hidden_size is not the decoder's": vision.out_width != text.width,
    }
    for problem, present in problems.items():
        if present:
            raise UserError(f"{where}: {problem}")
