"""A checkpoint folder of any family with random weights, for tests and measurements.

The config has the released layout of the family. The tokenizer and its template are those of the
packaged model, so training, sampling and asking run from the folder.
"""

import dataclasses
import json
import math
import pathlib
import shutil
import time
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from rrft_jax.assets import TINY
from rrft_jax.errors import UserError
from rrft_jax.hf import pretrained, saving
from rrft_jax.hf.agreement import PREPROCESSOR
from rrft_jax.models import table
from rrft_jax.models.config import Entry, VLMConfig
from rrft_jax.models.families import FAMILIES, Family


@dataclasses.dataclass(frozen=True)
class Size:
    """The sizes of a small model: fields of both towers."""

    vision: dict[str, int]
    text: dict[str, Any]


TINY_PRESET = "tiny"
SIZES = {
    "tiny": Size(  # has the vocabulary of the packaged model
        dict(width=64, mlp_width=192),
        dict(vocab_size=576, width=128, head_size=32, mlp_width=384, mrope_sections=(6, 5, 5)),
    ),
    "small": Size(  # the model of `workload.SMALL`
        dict(width=128, mlp_width=512),
        dict(vocab_size=2048, width=256, head_size=64, mlp_width=688, mrope_sections=(8, 12, 12)),
    ),
}
DTYPES = ("float32", "bfloat16", "float16")
COPIED = (
    "chat_template.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_TOKENS = (
    "image_token",
    "video_token",
    "vision_start_token",
    "vision_end_token",
    "vision_pad_token",
)


def write_checkpoint(
    out: str, family: str, preset: str, dtype: str, seed: int, max_shard_bytes: int
) -> dict[str, Any]:
    """Write the folder, and return its path, parameters, bytes and seconds.

    The host holds one tensor at a time.

    Args:
      out: the folder; it must be empty, or not be there yet.
      family: a name of `FAMILIES`.
      preset: one of `SIZES`, or one of the family's released models, whose sizes the model gets.
      dtype: the dtype of the weights.
      seed: the seed of the weights. A tensor depends on it and on its name alone.
      max_shard_bytes: the largest size of a file of weights.

    Raises:
      UserError: the preset is unknown, or the folder isn't empty.
    """
    started = time.perf_counter()
    folder = pathlib.Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out={out}: is not an empty folder; give one that is not there yet")
    chosen = FAMILIES[family]
    config = sizes(chosen, preset)
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(TINY / name, folder / name)
    preprocessor = _preprocessor(chosen, config)
    (folder / PREPROCESSOR).write_text(json.dumps(preprocessor, indent=2) + "\n")
    saving.save(folder, config, _Random(config, seed, jnp.dtype(dtype)), max_shard_bytes)
    # Last, because a folder without it is no checkpoint.
    raw = {**chosen.write(config), **_ends(), "torch_dtype": dtype}
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    number = sum(
        math.prod(shape) for shape in table.flatten(table.parameter_shapes(config)).values()
    )
    return {
        "folder": str(folder),
        "parameters": number,
        "bytes": number * jnp.dtype(dtype).itemsize,
        "seconds": round(time.perf_counter() - started, 1),
    }


def sizes(family: Family, preset: str) -> VLMConfig:
    """Return the configuration of a preset, with the tokens of the packaged model's tokenizer.

    Raises:
      UserError: the family has no such preset.
    """
    config = next(iter(family.released.values()))
    if preset in SIZES:
        config = _resized(config, SIZES[preset])
    elif preset in family.released:
        config = family.released[preset]
    else:
        known = ", ".join([*SIZES, *family.released])
        raise UserError(f"--preset={preset}: {family.title} has {known}")
    packaged, _ = pretrained.read_config(TINY)
    return dataclasses.replace(config, **{name: getattr(packaged, name) for name in _TOKENS})


def _resized(config: VLMConfig, size: Size) -> VLMConfig:
    """Return a model of the same parts in another size."""
    vision = dataclasses.replace(
        config.vision,
        depth=4,
        heads=4,
        out_width=size.text["width"],
        whole_blocks=config.vision.whole_blocks and (3,),
        deepstack=config.vision.deepstack and (0, 2),
        **size.vision,
    )
    text = dataclasses.replace(config.text, depth=4, heads=4, kv_heads=2, tied=True, **size.text)
    return dataclasses.replace(config, vision=vision, text=text)


@dataclasses.dataclass(frozen=True)
class _Random:
    """Random tensors, each made when it is written; see `hf.saving.Tensors`."""

    config: VLMConfig
    seed: int
    one_dtype: jnp.dtype

    def dtype(self, entry: Entry, layer: int) -> jnp.dtype:
        """Return the dtype of all tensors."""
        return self.one_dtype

    def gather(self, entry: Entry, layer: int) -> np.ndarray:
        """Return one layer of a parameter; its scale keeps activations and logits near 1."""
        name = zlib.crc32(f"{entry.path}/{layer}".encode())
        shape = table.shape(entry, self.config)[entry.stacked :]
        values = np.random.default_rng((self.seed, name)).standard_normal(shape, np.float32)
        kind = entry.path.rpartition("/")[2]
        if kind == "kernel":
            values /= shape[0] ** 0.5
        elif kind == "embedding":
            values /= shape[1] ** 0.5
        else:
            values = 0.1 * values + (kind == "scale")
        return values.astype(self.one_dtype)


def _preprocessor(family: Family, config: VLMConfig) -> dict[str, Any]:
    """Return the content of the image processor's file."""
    vision = config.vision
    raw = pretrained.read_json(TINY / PREPROCESSOR)
    if not family.image_defaults:
        raw |= {"image_mean": 3 * [0.5], "image_std": 3 * [0.5]}
    return raw | {
        name: getattr(vision, name) for name in ("patch_size", "temporal_patch_size", "merge_size")
    }


def _ends() -> dict[str, int]:
    """Return the tokens of the packaged model at which a text begins and ends."""
    raw = pretrained.read_json(TINY / "config.json")
    return {name: raw[name] for name in ("bos_token_id", "eos_token_id")}
