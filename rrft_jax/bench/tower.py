"""The time of a vision tower whose blocks see windows, beside the same tower without them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax.bench.update import medians
from rrft_jax.data.positions import patch_rows_cols
from rrft_jax.models.config import VisionConfig
from rrft_jax.models.families.qwen2_5_vl import RELEASED
from rrft_jax.models.vision import VisionTower

SIDES = (16, 32, 48, 64)  # patches along the side of a picture
# Small, with the windows of the released models: seven blocks in eight see windows.
TOWER = dataclasses.replace(
    RELEASED["qwen2_5_vl_3b"].vision,
    depth=8,
    width=128,
    heads=8,
    mlp_width=342,
    out_width=256,
    whole_blocks=(7,),
)
# What the blocks of a tower see. "mixed" is the share of the released models.
TOWERS = {
    "windows": dataclasses.replace(TOWER, whole_blocks=()),
    "mixed": TOWER,
    "whole": dataclasses.replace(TOWER, window_side=0, whole_blocks=()),
}


def bench_tower(repeats: int) -> dict:
    """Return patches -> median seconds of the three towers in turns, and the ratios to "whole".

    `forward` is the time of the visual tokens of one picture, and `gradient` that of the gradient
    of their sum.
    """
    result: dict = {"device": jax.devices()[0].device_kind}
    for side in SIDES:
        runs = [_runs(config, side) for config in TOWERS.values()]
        for name, three in zip(("forward", "gradient"), zip(*runs)):
            seconds = dict(zip(TOWERS, medians(list(three), repeats)))
            result.setdefault(str(side**2), {})[name] = {
                **{kind: round(value, 4) for kind, value in seconds.items()},
                "whole_to_windows": round(seconds["whole"] / seconds["windows"], 2),
                "whole_to_mixed": round(seconds["whole"] / seconds["mixed"], 2),
            }
    return result


def _runs(config: VisionConfig, side: int) -> tuple[Callable[[], jax.Array], ...]:
    """Return two functions of a square picture: its visual tokens, and the weights' gradient."""
    tower = VisionTower(config, jnp.float32)
    values = np.random.default_rng(0).normal(size=(1, side**2, config.patch_values))
    places = patch_rows_cols(side, side, config.merge_size)[None]
    picture = values.astype(np.float32), places, np.zeros((1, side**2), np.int32)
    params = jax.jit(tower.init)(jax.random.key(0), *picture)
    forward = jax.jit(tower.apply)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(tower.apply(params, *picture)[0])))
    return (
        lambda: jax.block_until_ready(forward(params, *picture)),
        lambda: jax.block_until_ready(gradient(params)),
    )
