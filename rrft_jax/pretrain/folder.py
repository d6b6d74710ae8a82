"""The folder that a tiny Qwen2-VL starts from: config.json, tokenizer and preprocessor files.

Every word that the lessons and the tasks use often is one token. Other words are spelt in bytes.

The files have the layout of the released checkpoints, with all sizes at the top of `config.json`.
Today's transformers, its releases 4.49 and 4.57, and vLLM read this layout. The layout that today's
transformers writes is read wrongly by these releases and by vLLM.
"""

import collections
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from rrft_jax.data.processor import CHAT_TEMPLATE
from rrft_jax.models import families
from rrft_jax.models.config import VLMConfig

VOCABULARY = 576
LENGTH = 4096  # the most tokens of a text
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# The pattern of a word. It splits like Qwen2's tokenizer (words, digits, punctuation with the text
# after it, line breaks), except for cells, calls, quotes in a list, signs between numbers, options
# and names of points.
WORDS = (
    r" ?[a-d][1-4]|change_[a-z]+\(|', '|, '| [-+*/=] | ?\([A-D]\) ?"
    r"| (?=[A-Z](?![a-z]))|[A-Z](?![a-z])"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "min_pixels": 56 * 56,
    "max_pixels": 480 * 480,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
TOKENIZER = {
    "bos_token": None,
    "chat_template": CHAT_TEMPLATE,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "model_max_length": LENGTH,
    "pad_token": "<|endoftext|>",
    "padding_side": "left",
    # Not Qwen2Tokenizer, because transformers 5 builds it from the vocabulary and the merges,
    # and splits words in its own way, whatever tokenizer.json says.
    "tokenizer_class": "PreTrainedTokenizerFast",
}


def write_folder(folder: pathlib.Path, corpus: Iterable[str]) -> VLMConfig:
    """Write all files except the weights; return the config. Words come from `corpus`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = collections.Counter(
        word for text in corpus for word, _ in split.pre_tokenize_str(text) if len(word) > 1
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    # By frequency, then by name, so that the ids don't depend on the order of texts.
    words = sorted(counts, key=lambda word: (-counts[word], word))
    words = words[: VOCABULARY - len(SPECIAL) - len(letters)]
    tokens = {token: index for index, token in enumerate([*SPECIAL, *letters, *words])}
    # A word of the vocabulary is taken whole, because there are no merges that would build it up.
    tokenizer = Tokenizer(models.BPE(tokens, [], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    raw = _config({name: tokens[name] for name in SPECIAL})
    end, padding = tokens["<|im_end|>"], tokens["<|endoftext|>"]
    files = {
        "config.json": raw,
        "generation_config.json": {
            "bos_token_id": padding,
            "eos_token_id": [end, padding],
            "pad_token_id": padding,
        },
        "preprocessor_config.json": PREPROCESSOR,
        "tokenizer_config.json": TOKENIZER,
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},  # the file that processors read
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return families.read(raw)


def _config(ids: Mapping[str, int]) -> dict[str, Any]:
    """Return the content of `config.json`, with the keys of the released Qwen2-VL-2B-Instruct."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": 384,
        "max_position_embeddings": LENGTH,
        "max_window_layers": 4,
        "model_type": "qwen2_vl",
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "sliding_window": LENGTH,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": 3,
            "embed_dim": 96,
            "hidden_size": 128,
            "in_chans": 3,
            "mlp_ratio": 4,
            "num_heads": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "vocab_size": VOCABULARY,
    }
