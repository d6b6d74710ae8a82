"""Tags that a folder's tokenizer has as tokens are those tokens, and stay in the text."""

import pickle
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from transformers import AutoTokenizer

from rrft_jax.assets import TINY
from rrft_jax.data import Processor
from rrft_jax.hf import load_pretrained, save_pretrained
from rrft_jax.rewards import format as formats
from tests.thinking import FIRST, add_tokens

ANSWER = ("<think>", "</think>", "<answer>", "</answer>")
CAPTION = ("<summary>", "</summary>", "<caption>", "</caption>")
REPLY = "<think>\n2 red cubes, é.\n</think>\n<answer>\n2\n</answer>"
CAPTIONED = f"<summary> a </summary> <caption> b </caption> {REPLY}"
# Which tags are tokens, and are they flagged as special?
FOLDERS = {
    "special": dict.fromkeys(ANSWER, True),
    "ordinary": dict.fromkeys(ANSWER, False),
    "two flags": {"<think>": True, "</think>": False, "<answer>": False, "</answer>": True},
    "some": {"<think>": True, "</answer>": False},
    "captions": dict.fromkeys((*CAPTION, *ANSWER), True),
}


def with_tokens(folder, flags: dict[str, bool]) -> None:
    """The packaged folder, its tokenizer with more tokens."""
    shutil.copytree(TINY, folder)
    add_tokens(folder, {**flags, "<|box|>": True})


@pytest.fixture(params=FOLDERS)
def folder(request, tmp_path):
    with_tokens(tmp_path / "model", FOLDERS[request.param])
    return tmp_path / "model", FOLDERS[request.param]


def test_a_reply_is_spelt_in_the_folders_tokens_and_comes_back_whole(folder):
    path, flags = folder
    processor = Processor.from_pretrained(path)
    for text in (REPLY, CAPTIONED):
        tokens = processor.encode_target(text)
        assert tokens == AutoTokenizer.from_pretrained(path)(text + "<|im_end|>").input_ids
        for i, tag in enumerate(flags):
            assert tokens.count(FIRST + i) == text.count(tag)
        assert processor.decode(tokens) == text
        assert pickle.loads(pickle.dumps(processor)).decode(tokens) == text
    assert formats.reward(processor.decode(processor.encode_target(REPLY))) == 1
    assert formats.caption_reward(processor.decode(processor.encode_target(CAPTIONED))) == 1


def test_a_prompt_is_spelt_in_them_too_and_other_control_tokens_in_a_text_are_not(folder):
    path, flags = folder
    processor = Processor.from_pretrained(path)
    text = f"Reply as {REPLY}. <|im_end|><|box|>"
    row = processor.encode([{"role": "user", "content": text}])
    for i, tag in enumerate(flags):
        assert np.sum(row.tokens == FIRST + i) == text.count(tag)
    assert np.sum(row.tokens == FIRST + len(flags)) == 0
    assert np.sum(row.tokens == 2) == 1  # the template's
    assert text in processor.prompt_text([{"role": "user", "content": text}])


def test_every_other_special_token_is_dropped_from_a_completion(folder):
    path, flags = folder
    processor = Processor.from_pretrained(path)
    box = FIRST + len(flags)
    assert processor.decode([box, *processor.encode_target(REPLY), 6, box, 0]) == REPLY
    assert {box, 2, 6} <= set(processor.control_tokens)
    assert not set(processor.control_tokens.values()) & set(flags)


def test_an_export_has_the_same_tokenizer(folder, tmp_path):
    path, _ = folder
    model, params = load_pretrained(path, jnp.float32)
    save_pretrained(tmp_path / "export", model, params)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "export" / name).read_bytes() == (path / name).read_bytes()


def test_without_such_tokens_texts_are_decoded_as_the_tokenizer_does():
    processor, theirs = Processor.from_pretrained(TINY), AutoTokenizer.from_pretrained(TINY)
    random = np.random.default_rng(0)
    for length in (1, 5, 40):
        for tokens in random.integers(0, 600, (50, length)).tolist():
            expected = theirs.backend_tokenizer.decode(tokens, skip_special_tokens=True)
            assert processor.decode(tokens) == expected
