"""Greedy tokens beside those of transformers in torch, in float32 on the same device."""

import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from PIL import Image

from rrft_jax.accelerator import scale, torch_device
from rrft_jax.accelerator.findings import Finding, at_least, told
from rrft_jax.assets import TINY
from rrft_jax.bench.checkpoint import TINY_PRESET, write_checkpoint
from rrft_jax.data import Processor
from rrft_jax.hf import load_pretrained
from rrft_jax.models import Prompt
from rrft_jax.rollout import GenerationConfig, SamplingParams, generate

QUESTIONS = ("How many red cubes are there?", "What is in the picture?")
PICTURES = ((112, 84), (56, 140))  # pixels: width and height


def check() -> Iterator[Finding]:
    """Yield the share of equal tokens of the packaged model, and of random ones of all families."""
    torch = torch_device.require()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    sizes = scale.here()
    with tempfile.TemporaryDirectory() as folder:
        models = {"packaged model": TINY}
        for family in sizes.families:
            models[family] = pathlib.Path(folder, family)
            out = str(models[family])
            write_checkpoint(out, family, TINY_PRESET, "float32", seed=0, max_shard_bytes=2**32)
        yield told("torch computes on", torch_device.name())
        for name, path in models.items():
            share = _equal_tokens(path, sizes.greedy_tokens)
            yield at_least(f"{name}: share of equal tokens", share, 1.0)


def _equal_tokens(folder: pathlib.Path, number: int) -> float:
    """Return the share of greedy tokens that both draw alike."""
    processor, rng = Processor.from_pretrained(folder), np.random.default_rng(0)
    rows = []
    for question, (width, height) in zip(QUESTIONS, PICTURES):
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        content = [{"type": "image"}, {"type": "text", "text": question}]
        rows.append(processor.encode([{"role": "user", "content": content}], [picture]))
    with jax.default_matmul_precision("highest"):
        model, params = load_pretrained(folder, np.float32)
        config = GenerationConfig(number, (), sampling=SamplingParams(temperature=0.0))
        prompt = processor.batch(rows)
        ours = generate(model, params, prompt, jax.random.key(0), config).fetch().tokens[:, 0]
    theirs = _theirs(folder, rows, number, model.config.visual_tokens, model.config.image_token)
    return float(np.mean(ours == theirs))


def _theirs(
    folder: pathlib.Path, rows: list[Prompt], number: int, banned: Any, image_token: int
) -> np.ndarray:
    """Return the greedy tokens [B,T] of transformers; each prompt stands alone, unpadded."""
    import torch
    from transformers import AutoModelForImageTextToText

    device = torch_device.name()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model = model.to(device).eval()
    model.generation_config.eos_token_id = None  # no end before the last token
    found = []
    for row in rows:
        tokens = torch.tensor(row.tokens[None].astype(np.int64))
        grid = [[1, *(row.patch_rows_cols.max(axis=0) + 1).tolist()]]
        inputs = {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "pixel_values": torch.tensor(row.patches),
            "image_grid_thw": torch.tensor(grid),
            "mm_token_type_ids": (tokens == image_token).int(),
        }
        out = model.generate(
            **{name: x.to(device) for name, x in inputs.items()},
            do_sample=False,
            max_new_tokens=number,
            suppress_tokens=sorted(banned),
        )
        found.append(out[0, tokens.shape[1] :].cpu().numpy())
    return np.stack(found)
