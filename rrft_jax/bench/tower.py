"""The time of a vision tower with windows, beside the same tower without them."""

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


def bench_tower(repeats: int) -> dict:
    """Return patches -> median seconds with windows and without, and their ratio, in turns.

    `forward` is the time of the visual tokens of one picture, and `gradient` that of the gradient
    of their sum.
    """
    towers = {"windows": TOWER, "whole": dataclasses.replace(TOWER, window_side=0)}
    result: dict = {"device": jax.devices()[0].device_kind}
    for side in SIDES:
        runs = [_runs(config, side) for config in towers.values()]
        for name, pair in zip(("forward", "gradient"), zip(*runs)):
            seconds = dict(zip(towers, medians(list(pair), repeats)))
            ratio = round(seconds["whole"] / seconds["windows"], 2)
            rounded = {kind: round(value, 4) for kind, value in seconds.items()}
            result.setdefault(str(side**2), {})[name] = {**rounded, "ratio": ratio}
    return result


def _runs(config: VisionConfig, side: int) -> tuple[Callable[[], jax.Array], ...]:
    """Return two functions of a square picture: its visual tokens, and the weights' gradient."""
    tower = VisionTower(config, jnp.float32)
    values = np.random.default_rng(0).normal(size=(1, side**2, config.patch_values))
    places = patch_rows_cols(side, side, config.merge_size)[None]
    picture = values.astype(np.float32), places, np.zeros((1, side**2), np.int32)
    params = jax.jit(tower.init)(jax.random.key(0), *picture)
    forward = jax.jit(tower.apply)
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(tower.apply(params, *picture))))
    return (
        lambda: jax.block_until_ready(forward(params, *picture)),
        lambda: jax.block_until_ready(gradient(params)),
    )
