"""Random checkpoint folders of every family, written by transformers itself: what the tests load.

Presets differ in what could be got wrong:
  small    one file, everything divides by everything
  odd      widths, heads and depths that divide nothing evenly; many shards
  untied   a head of its own
  wide     as many key/value heads as heads, other M-RoPE sections, bfloat16
  windows  Qwen2.5-VL: windows of 4 x 4 patches, then whole pictures; everything divides
  halls    Qwen2.5-VL: whole pictures, then windows of 8 x 8 patches; odd sizes, bfloat16, shards
  deep     Qwen3-VL: three features for four layers, heads wider than width/heads
  shafts   Qwen3-VL: as many features as layers, heads narrower; odd sizes, bfloat16, shards
Biases and norms are random too, so that a weight that is forgotten or swapped shows.
"""

import json
import os
import pathlib

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rrft_jax.pretrain.folder import SPECIAL

# One turn after the other, pictures as a single placeholder between their two marks.
TEMPLATE = """\
{%- macro part(p) -%}
{%- if p.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ p.text }}
{%- endif -%}{%- endmacro -%}
{%- for turn in messages -%}{{ '<|im_start|>' + turn.role + '\\n' }}
{%- if turn.content is string -%}{{ turn.content }}
{%- else -%}{%- for p in turn.content -%}{{ part(p) }}{%- endfor -%}{%- endif -%}
{{ '<|im_end|>\\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 56 * 56,
    "max_pixels": 14 * 14 * 4 * 1280,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
PREPROCESSORS = {
    "qwen3_vl": {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 64 * 64, "longest_edge": 16 * 16 * 4 * 1280},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
}
# Sizes: decoder (width, layers, heads, kv_heads, mlp, vocabulary, sections; and of Qwen3-VL size of
# a head), vision tower (width, layers, heads; and of Qwen2.5-VL mlp, side of a window in pixels,
# blocks that see whole pictures; of Qwen3-VL mlp, positions, blocks of deepstack), then what the
# files are like.
PRESETS = {
    "small": dict(
        text=(64, 2, 4, 2, 128, 768, (2, 3, 3)), vision=(32, 2, 2), tied=True, shard="5GB"
    ),
    "odd": dict(
        text=(84, 3, 7, 1, 150, 701, (2, 1, 3)), vision=(60, 3, 5), tied=True, shard="100KB"
    ),
    "untied": dict(
        text=(72, 2, 6, 3, 112, 733, (2, 2, 2)), vision=(48, 1, 3), tied=False, shard="5GB"
    ),
    "wide": dict(
        text=(128, 2, 4, 4, 96, 768, (6, 5, 5)),
        vision=(64, 2, 2),
        tied=False,
        shard="200KB",
        dtype=torch.bfloat16,
    ),
    "windows": dict(
        text=(64, 2, 4, 2, 128, 768, (2, 3, 3)),
        vision=(32, 2, 2, 48, 56, [1]),
        tied=True,
        shard="5GB",
    ),
    "halls": dict(
        text=(84, 3, 7, 1, 150, 701, (2, 1, 3)),
        vision=(60, 3, 5, 50, 112, [0]),
        tied=False,
        shard="200KB",
        dtype=torch.bfloat16,
    ),
    "deep": dict(
        text=(64, 4, 4, 2, 128, 768, (6, 5, 5), 32),
        vision=(32, 5, 2, 48, 36, [0, 2, 3]),
        tied=True,
        shard="5GB",
    ),
    "shafts": dict(
        text=(84, 2, 6, 1, 150, 701, (2, 2, 2), 12),
        vision=(60, 3, 5, 50, 49, [1, 2]),
        tied=False,
        shard="200KB",
        dtype=torch.bfloat16,
    ),
}
FAMILIES = {
    "qwen2_vl": ("small", "odd", "untied", "wide"),
    "qwen2_5_vl": ("windows", "halls"),
    "qwen3_vl": ("deep", "shafts"),
}
# The names of the decoder's width and of the tower's sizes in `vision_config`.
_VISION = {
    "qwen2_vl": ("hidden_size", "embed_dim", "depth", "num_heads"),
    "qwen2_5_vl": (
        "out_hidden_size",
        "hidden_size",
        "depth",
        "num_heads",
        "intermediate_size",
        "window_size",
        "fullatt_block_indexes",
    ),
    "qwen3_vl": (
        "out_hidden_size",
        "hidden_size",
        "depth",
        "num_heads",
        "intermediate_size",
        "num_position_embeddings",
        "deepstack_visual_indexes",
    ),
}
_ROPE = {
    "qwen2_vl": {"type": "mrope"},
    "qwen2_5_vl": {"type": "mrope"},
    "qwen3_vl": {"rope_type": "default", "mrope_interleaved": True},
}


def make(path: str | os.PathLike, preset: str = "small", seed: int = 0) -> None:
    """Writes the folder: config, weights, tokenizer, chat template, preprocessor."""
    path, p = pathlib.Path(path), PRESETS[preset]
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(path)
    family = next(family for family, presets in FAMILIES.items() if preset in presets)
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL))))
    model = _model(p, family, seed, ids)
    model.to(p.get("dtype", torch.float32)).save_pretrained(path, max_shard_size=p["shard"])
    preprocessor = PREPROCESSORS.get(family, PREPROCESSOR)
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))


def _model(p: dict, family: str, seed: int, ids: dict[str, int]) -> PreTrainedModel:
    width, layers, heads, kv_heads, mlp, vocabulary, sections, *head = p["text"]
    end, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
    config = AutoConfig.for_model(
        family,
        text_config=dict(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            intermediate_size=mlp,
            **({"head_dim": head[0]} if head else {}),
            vocab_size=vocabulary,
            rope_theta=100.0,  # if it is large, a swapped axis changes next to nothing
            rope_scaling={**_ROPE[family], "mrope_section": list(sections)},
            max_position_embeddings=4096,
            tie_word_embeddings=p["tied"],
            bos_token_id=pad,
            eos_token_id=end,
            pad_token_id=pad,
        ),
        vision_config=dict(zip(_VISION[family], (width, *p["vision"]), strict=True)),
        tie_word_embeddings=p["tied"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Strong layers, or a random model repeats the last token that it has read.
            alpha = 0.15 if "layers" in name else 0.05
            weight.add_(torch.randn_like(weight), alpha=alpha)
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    return model


def _tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE, learned from a few hundred sentences of the tasks' kind."""
    colours, shapes = ("red", "blue", "green", "gray"), ("cube", "sphere", "cylinder")
    text = [
        f"A {colour} {shape} is left of {n} {shape}s. Take away {n}: how many are there? "
        f"<think>\nThe {colour} ones are {n}.\n</think>\n<answer>\n{n}\n</answer>"
        for colour in colours
        for shape in shapes
        for n in range(20)
    ]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=480,
            special_tokens=list(SPECIAL),
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL),
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
