"""The model computes what transformers' own model computes, in float32 on the CPU.

Transformers sees one sample at a time, unpadded, every completion behind a copy of its prompt; ours
sees the batch, padded, completions side by side over a shared prompt.
"""

import copy
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from rrft_jax.data.processor import Processor
from rrft_jax.hf.pretrained import load_pretrained
from rrft_jax.models import table
from rrft_jax.models.vlm import VLM, PromptCache
from rrft_jax.rollout import GenerationConfig, SamplingParams, generate
from tests import checkpoints

TOLERANCE = 2e-5  # activations are of order 1, and 2e-6 is usual
# Which samples (by their number of pictures) make a batch; three each, to compile less often.
BATCHES = {
    "text": [0, 0, 0],
    "one picture": [1, 1, 1],
    "two pictures": [2, 2, 2],
    "mixed": [1, 0, 2],
}
G, T = 2, 6  # completions a prompt, tokens a completion
NEW_TOKENS = 48


class Pair(NamedTuple):
    """The same checkpoint twice, and one sample with 0, 1 and 2 pictures each (unbatched rows)."""

    theirs: Any
    model: VLM
    params: dict
    processor: Processor
    rows: list
    completions: np.ndarray  # [3,G,T], of the same three samples


@pytest.fixture(scope="module", params=checkpoints.PRESETS)
def pair(request, checkpoint):
    folder = checkpoint(request.param)
    theirs = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model, params = load_pretrained(folder, jnp.float32)
    processor = Processor.from_pretrained(folder)
    random = np.random.default_rng(0)
    texts = (
        "What is 3 and 4?",
        "How many red cubes are there?",
        "What was done to the first picture, so that it became the second?",
    )
    sizes = ((), ((84, 56),), ((56, 140), (112, 84)))
    rows = [
        processor.encode(*_sample(text, pictures, random)) for text, pictures in zip(texts, sizes)
    ]
    visual = model.config.visual_tokens
    words = np.setdiff1d(np.arange(model.config.text.vocab_size), visual)
    return Pair(theirs, model, params, processor, rows, random.choice(words, size=(3, G, T)))


def _sample(text, sizes, random):
    pictures = [
        Image.fromarray(random.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]
    content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": text}]
    return [{"role": "user", "content": content}], pictures


def _theirs(pair: Pair, row, completion=()) -> dict[str, torch.Tensor]:
    """A row, and maybe a completion behind it, as transformers wants it."""
    tokens = torch.tensor([[*row.tokens.tolist(), *completion]])
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if len(row.patches):
        pictures = [row.patch_rows_cols[row.patch_image == i] for i in np.unique(row.patch_image)]
        grids = [[1, *(rows_cols.max(axis=0) + 1).tolist()] for rows_cols in pictures]
        inputs["pixel_values"] = torch.tensor(row.patches)
        inputs["image_grid_thw"] = torch.tensor(grids)
        inputs["mm_token_type_ids"] = (tokens == pair.model.config.image_token).int()
    return inputs


@pytest.fixture(scope="module")
def their_logits(pair):
    """[3,G,T,V]: what transformers predicts for every token of every completion."""
    with torch.no_grad():
        return np.stack(
            [
                [
                    pair.theirs(**_theirs(pair, row, completion.tolist())).logits[0, -T - 1 : -1]
                    for completion in completions
                ]
                for row, completions in zip(pair.rows, pair.completions)
            ]
        )


@pytest.fixture(scope="module")
def ours(pair):
    """`ours(name)`: (features of pictures, logits [B,G,T,V], log-probabilities [B,G,T]).

    The features are the visual tokens [B,N,D], and those of deepstack [n,B,N,D] or None.
    """
    model = pair.model

    @jax.jit
    def compute(params, prompt, completions):
        hidden, kv = model.prefill(params, prompt)
        rows = completions.reshape(-1, T)
        weights, prompts = model.decoding_weights(params), PromptCache(kv, prompt.mask)
        next_position = jnp.repeat(prompt.next_position, G)

        def step(state, time):
            hidden, cache = state
            after = model.decode(weights, rows[:, time], time, next_position, prompts, cache)
            return after, hidden

        start = jnp.repeat(hidden, G, axis=0), model.empty_cache(len(rows), T)
        _, hidden = jax.lax.scan(step, start, jnp.arange(T))  # [T,R,D]
        logits = model.logits(weights, jnp.moveaxis(hidden, 0, 1))
        logits = logits.reshape(*completions.shape, -1)
        score = model.score(params, prompt, completions)
        return model.encode_features(params, prompt), logits, score

    @functools.cache
    def run(name):
        chosen = BATCHES[name]
        prompt = pair.processor.batch(
            [pair.rows[i] for i in chosen], prompt_length=128, num_patches=96
        )
        return compute(pair.params, prompt, pair.completions[chosen])

    return run


@pytest.mark.parametrize("name", [name for name in BATCHES if name != "text"])
def test_features_of_pictures(pair, ours, name):
    (visual, deepstack), _, _ = ours(name)
    for b, row in enumerate(pair.rows[i] for i in BATCHES[name]):
        if len(row.patches):
            inputs = _theirs(pair, row)
            with torch.no_grad():
                tower = pair.theirs.model.visual(inputs["pixel_values"], inputs["image_grid_thw"])
            expected = [tower.pooler_output, *getattr(tower, "deepstack_features", ())]
            got = [visual[b], *([] if deepstack is None else deepstack[:, b])]
            for ours_, theirs in zip(got, expected, strict=True):
                ours_ = ours_[: len(theirs)]
                np.testing.assert_allclose(ours_, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", BATCHES)
def test_logits(pair, ours, their_logits, name):
    """Token by token, with keys and values in caches, as in sampling."""
    _, logits, _ = ours(name)
    np.testing.assert_allclose(logits, their_logits[BATCHES[name]], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", BATCHES)
def test_score(pair, ours, their_logits, name):
    """All tokens at once, as in training."""
    _, _, log_probs = ours(name)
    expected = torch.tensor(their_logits[BATCHES[name]]).log_softmax(-1).numpy()
    expected = np.take_along_axis(expected, pair.completions[BATCHES[name]][..., None], -1)[..., 0]
    np.testing.assert_allclose(log_probs, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("pair", ["small"], indirect=True)
def test_a_batch_without_any_patches_skips_the_vision_tower(pair, ours):
    prompt = pair.processor.batch([pair.rows[i] for i in BATCHES["text"]])
    assert prompt.patches.shape[1] == 0
    log_probs = jax.jit(pair.model.score)(pair.params, prompt, pair.completions[BATCHES["text"]])
    np.testing.assert_allclose(log_probs, ours("text")[-1], rtol=0, atol=TOLERANCE)


def test_greedy_generation(pair):
    """Picture tokens are not for sampling: neither side may choose them."""
    chosen, stop_tokens = BATCHES["mixed"], pair.processor.stop_tokens
    prompt = pair.processor.batch([pair.rows[i] for i in chosen])

    ours = generate(
        pair.model,
        pair.params,
        prompt,
        jax.random.key(0),
        GenerationConfig(
            max_new_tokens=NEW_TOKENS,
            stop_tokens=stop_tokens,
            sampling=SamplingParams(temperature=0.0),
        ),
    )
    for i, tokens, mask in zip(chosen, np.asarray(ours.tokens[:, 0]), np.asarray(ours.mask[:, 0])):
        inputs = _theirs(pair, pair.rows[i])
        theirs = pair.theirs.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=list(stop_tokens),
            suppress_tokens=list(pair.model.config.visual_tokens),
        )
        assert tokens[mask].tolist() == theirs[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("pair", ["odd", "halls", "deep"], indirect=True)
def test_gradients(pair):
    """Of GRPO's sum over G completions a prompt, by every weight: torch repeats each prompt.

    Theirs is computed in float64, so that what differs is our rounding alone.
    """
    prompt = pair.processor.batch([pair.rows[i] for i in BATCHES["mixed"]])
    completions = pair.completions[BATCHES["mixed"]]
    weights = np.random.default_rng(1).normal(size=completions.shape).astype(np.float32)

    @jax.jit
    def gradients(params):
        def loss(params):
            return jnp.sum(pair.model.score(params, prompt, completions) * weights)

        return jax.grad(loss)(params)

    ours = table.flatten(gradients(pair.params))
    theirs = copy.deepcopy(pair.theirs).double()
    for row, i in enumerate(BATCHES["mixed"]):
        for number, completion in enumerate(torch.tensor(pair.completions[i])):
            inputs = _theirs(pair, pair.rows[i], completion.tolist())
            log_probs = theirs(**inputs).logits[0, -T - 1 : -1].log_softmax(-1)
            taken = log_probs.gather(-1, completion[:, None])[:, 0]
            (taken * torch.tensor(weights[row, number])).sum().backward()
    expected = {name: weight.grad.numpy() for name, weight in theirs.named_parameters()}
    config = pair.model.config
    for entry in table.entries(config):
        names = table.names(entry, config)
        want = np.stack([table.from_hf(entry, expected[name]) for name in names])
        got = np.asarray(ours[entry.path]).reshape(want.shape)
        tolerance = 2e-5 * np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance, err_msg=entry.path)
