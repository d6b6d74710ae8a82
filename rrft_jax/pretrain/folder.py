"""The folder that a tiny Qwen2-VL starts from: config.json, tokenizer and preprocessor files.

Every word that the lessons and the tasks use often is one token; anything else is spelt in bytes.
"""

import collections
import json
import pathlib
from collections.abc import Iterable

from rrft_jax.data.processor import CHAT_TEMPLATE
from rrft_jax.models.config import Qwen2VLConfig

VOCABULARY = 576
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
# What a word is: as Qwen2's tokenizer splits (words, digits, punctuation with what follows it, line
# breaks), but for cells, calls, quotes in a list, signs between numbers, options, names of points.
WORDS = (
    r" ?[a-d][1-4]|change_[a-z]+\(|', '|, '| [-+*/=] | ?\([A-D]\) ?"
    r"| (?=[A-Z](?![a-z]))|[A-Z](?![a-z])"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_folder(folder: pathlib.Path, corpus: Iterable[str]) -> Qwen2VLConfig:
    """Writes all files but the weights; returns the config. Words come from `corpus`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

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
    # By frequency, and by name where that is the same: the ids don't depend on the order of texts.
    words = sorted(counts, key=lambda word: (-counts[word], word))
    words = words[: VOCABULARY - len(SPECIAL) - len(letters)]
    tokens = {token: index for index, token in enumerate([*SPECIAL, *letters, *words])}
    # A word of the vocabulary is taken whole; there are no merges that would build it up.
    tokenizer = Tokenizer(models.BPE(tokens, [], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    ends = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    raw = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen2_vl_text",
            "vocab_size": VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 6, 6],
            },
            **ends,
        },
        "vision_config": {
            "model_type": "qwen2_vl_vision",
            "depth": 3,
            "embed_dim": 96,
            "num_heads": 4,
            "mlp_ratio": 4,
            "hidden_size": 128,
            "hidden_act": "quick_gelu",
            "in_channels": 3,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
        },
    }
    stops = {**ends, "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]]}
    preprocessor = {
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
    for name, content in (
        ("config.json", raw),
        ("generation_config.json", stops),
        ("preprocessor_config.json", preprocessor),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return Qwen2VLConfig.from_dict(raw)
