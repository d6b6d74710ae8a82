"""Checks of config.json that every family shares."""

from collections.abc import Mapping
from typing import Any

from rrft_jax.errors import UserError

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

# What config.json states as numbers above 0: key -> kinds of values, and their name.
_WHOLE, _REAL = ((int,), "a whole number"), ((int, float), "a number")
_SIZES = {
    **dict.fromkeys(_DOUBLED, _WHOLE),
    **dict.fromkeys(("head_dim", "depth", "embed_dim", "num_heads", "out_hidden_size"), _WHOLE),
    **dict.fromkeys(("patch_size", "temporal_patch_size", "spatial_merge_size"), _WHOLE),
    **dict.fromkeys(("in_channels", "in_chans", "window_size"), _WHOLE),
    "num_position_embeddings": _WHOLE,
    **dict.fromkeys(("rms_norm_eps", "rope_theta", "mlp_ratio"), _REAL),
}


def check_sections(raw: Mapping[str, Any], where: str) -> None:
    """Refuse sections that are no objects, and a decoder of another model."""
    for key in ("text_config", "vision_config"):
        if not isinstance(raw.get(key, {}), Mapping):
            raise UserError(
                f"{where}: {key} is {raw[key]!r:.60}, expected an object; download the folder again"
            )
    kind, own = raw["model_type"], raw.get("text_config", {}).get("model_type")
    if own not in (None, kind, f"{kind}_text"):
        raise UserError(
            f"{where}: text_config.model_type is {own!r}, expected {kind + '_text'!r}, as "
            f"model_type is {kind!r}; give the folder of a checkpoint whose decoder is its own"
        )


def check_sizes(raw: Mapping[str, Any], where: str) -> None:
    """Refuse a size that is no number above 0. null says that a size is absent."""
    parts = {"": raw, **{f"{key}.": raw.get(key, {}) for key in ("text_config", "vision_config")}}
    for place, part in tuple(parts.items()):
        for name in ("rope_parameters", "rope_scaling"):
            parts[f"{place}{name}."] = part.get(name) or {}
    for place, part in parts.items():
        for key, value in part.items():
            kinds, words = _SIZES.get(key, ((), ""))
            if kinds and value is not None and not (type(value) in kinds and value > 0):
                raise UserError(
                    f"{where}: {place}{key} is {value!r:.60}, expected {words} above 0; correct "
                    "it, or download the folder again"
                )


def check_whole(raw: Mapping[str, Any], where: str) -> None:
    """Refuse quantised weights, which can't be trained as they are."""
    for config in (raw, raw.get("text_config") or {}):
        for key in ("quantization_config", "compression_config", "quantization"):
            if settings := config.get(key):
                method = settings.get("quant_method") or settings.get("mode")
                method = method or "of an unknown method"
                raise UserError(
                    f"{where}: the weights are quantized ({key}: {method}) and cannot be trained; "
                    "give the checkpoint in float32, bfloat16 or float16"
                )


def check_doubled(raw: Mapping[str, Any], where: str) -> None:
    """Refuse a size with two values, one at the top level and one in `text_config`.

    Readers differ in which one they use. A head that is tied in one place alone is no
    contradiction: some writers leave the other out.
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


def check_problems(problems: Mapping[str, Any], where: str) -> None:
    """Raise UserError for the first problem, a sentence, whose value is true."""
    for problem, present in problems.items():
        if present:
            raise UserError(f"{where}: {problem}")
