"""The time to ask about pictures of many sizes, compilation included."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from PIL import Image

from rrft_jax.asking import Asker, load
from rrft_jax.assets import TINY
from rrft_jax.rollout import GenerationConfig, SamplingParams, generate

_SIZES = ((112, 112), (224, 168), (320, 240), (448, 336), (640, 480))  # pixels: width and height
_EACH = 4  # pictures of each size
_QUESTION = "How many things are there?"
_NEW_TOKENS = 96


def bench_asking(checkpoint: str | None, repeats: int) -> dict:
    """Return the median seconds to ask about 20 pictures of five sizes, first and once compiled."""
    asker = load(checkpoint or TINY, instruction="")
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        for _ in range(_EACH)
        for width, height in _SIZES
    ]
    ways: dict[str, Callable[[], Any]] = {
        "own_buckets": lambda: [_in_own_bucket(asker, picture) for picture in pictures],
        "ask": lambda: [
            asker.ask(picture, _QUESTION, max_new_tokens=_NEW_TOKENS) for picture in pictures
        ],
        "ask_all": lambda: asker.ask_all(
            [(picture, _QUESTION) for picture in pictures], max_new_tokens=_NEW_TOKENS
        ),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            jax.clear_caches()
            seconds[name].append((_seconds(way), _seconds(way)))
    medians = {name: [statistics.median(x) for x in zip(*both)] for name, both in seconds.items()}
    return {
        name: {"first": round(first, 2), "compiled": round(compiled, 2)}
        for name, (first, compiled) in medians.items()
    }


def _in_own_bucket(asker: Asker, picture: Image.Image) -> str:
    """Ask without `Asker.ask`: every size of pictures has its own shape."""
    processor = asker.processor
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _QUESTION}]}]
    prompt = processor.batch([processor.encode(chat, [picture])])
    config = GenerationConfig(
        _NEW_TOKENS, processor.stop_tokens, sampling=SamplingParams(temperature=0.0)
    )
    out = generate(asker.model, asker.params, prompt, jax.random.key(0), config).fetch()
    return processor.decode(out.tokens[0, 0][out.mask[0, 0]])


def _seconds(way: Callable[[], Any]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began
