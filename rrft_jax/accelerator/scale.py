"""The sizes that the check runs at: those of real runs on an accelerator, small ones on a CPU."""

import dataclasses
from typing import Any

import jax

from rrft_jax.assets import TINY
from rrft_jax.bench.workload import Workload
from rrft_jax.hf.pretrained import read_config
from rrft_jax.models.config import VLMConfig
from rrft_jax.models.families import FAMILIES, RELEASED


@dataclasses.dataclass(frozen=True)
class Attention:
    """The shapes of arguments of the three attentions."""

    prompts: int
    prompt_tokens: int
    patches: int
    window: int  # patches of the largest window
    samples: int
    new_tokens: int
    heads: int
    kv_heads: int


@dataclasses.dataclass(frozen=True)
class Learning:
    """The short GRPO run of the packaged model."""

    steps: int
    prompts: int
    samples: int
    new_tokens: int


@dataclasses.dataclass(frozen=True)
class Scale:
    """The sizes of every part of the check.

    Attributes:
      step: the GRPO step whose speed and memory are measured, and `model` and `grpo` the settings
        of its run that differ from the defaults, in these sections.
      repeats: the number of measured runs; results are medians.
      matrix: the side of the square matrices, and `copied` the elements of the array, by which the
        device's own speed is measured.
      head_sizes: the head sizes of the attentions, and `attention` their other sizes.
      scored: name -> the model whose scores are compared, and `scored_step` their shapes.
      families: the families whose greedy tokens are compared, beside the packaged model.
      greedy_tokens: the number of greedy tokens of each prompt.
      learning: the short run.
    """

    step: Workload
    model: dict[str, Any]
    grpo: dict[str, Any]
    repeats: int
    matrix: int
    copied: int
    head_sizes: tuple[int, ...]
    attention: Attention
    scored: dict[str, VLMConfig]
    scored_step: Workload
    families: tuple[str, ...]
    greedy_tokens: int
    learning: Learning


def here() -> Scale:
    """Return the sizes for the first device of this machine."""
    return small() if jax.default_backend() == "cpu" else full()


def full() -> Scale:
    """Return the sizes of real runs: Qwen2-VL 2B, prompts with a picture of 480,000 pixels."""
    scored = ("2b", "qwen2_5_vl_3b", "qwen3_vl_2b", "qwen3_vl_8b")  # all head sizes, all parts
    return Scale(
        step=Workload(14, 700, 68, 36, 8, 512, RELEASED["2b"]),
        model={},
        grpo={},
        repeats=3,
        matrix=8192,
        copied=2**30,
        head_sizes=(64, 72, 80, 128),  # of all families
        attention=Attention(2, 701, 2448, 64, 4, 256, heads=12, kv_heads=2),
        scored={name: _shallow(RELEASED[name]) for name in scored},
        scored_step=Workload(2, 300, 32, 24, 4, 128, RELEASED["2b"]),
        families=tuple(FAMILIES),
        greedy_tokens=32,
        learning=Learning(steps=6, prompts=8, samples=8, new_tokens=48),
    )


def small() -> Scale:
    """Return sizes that two CPU cores run in seconds."""
    tiny, _ = read_config(TINY)
    return Scale(
        step=Workload(2, 32, 4, 4, 2, 8, tiny),
        model={"compute_dtype": "float32", "remat": "none"},  # they compile sooner
        grpo={"micro_batches": 1},
        repeats=1,
        matrix=256,
        copied=2**20,
        head_sizes=(72,),
        attention=Attention(1, 5, 8, 4, 2, 3, heads=2, kv_heads=1),
        scored={"tiny": tiny},
        scored_step=Workload(2, 32, 4, 4, 2, 8, tiny),
        families=(),
        greedy_tokens=6,
        learning=Learning(steps=2, prompts=2, samples=4, new_tokens=16),
    )


def _shallow(config: VLMConfig) -> VLMConfig:
    """Return a model of the same widths with two layers in each tower."""
    vision = dataclasses.replace(
        config.vision,
        depth=2,
        whole_blocks=config.vision.whole_blocks and (1,),
        deepstack=config.vision.deepstack and (0,),
    )
    return dataclasses.replace(
        config, vision=vision, text=dataclasses.replace(config.text, depth=2)
    )
