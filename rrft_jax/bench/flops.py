"""The number of floating-point operations of a forward pass."""

import math

from rrft_jax.bench.workload import Workload
from rrft_jax.models import table
from rrft_jax.models.config import VisionConfig, VLMConfig


def score_flops(workload: Workload) -> float:
    """Return the operations of `score` without gradient.

    Only matrix products count, without masked scores. A backward pass needs twice as many.
    Recomputation does not count: model FLOPs utilisation (https://arxiv.org/abs/2204.02311) is
    defined by the operations that the result needs.
    """
    config, text = workload.model, workload.model.text
    batch, group, length = workload.prompts, workload.samples, workload.new_tokens
    prompt, patches = workload.prompt_tokens, workload.rows * workload.cols
    pairs = prompt * (prompt + 1) / 2 + group * length * (prompt + (length + 1) / 2)
    decoder = _weights(config, "language/layers/") * (prompt + group * length)
    decoder += text.depth * 2 * text.heads * text.head_size * pairs
    head = text.width * text.vocab_size * group * length
    tower = _weights(config, "vision/patch_embed/", "vision/blocks/") * patches
    tower += 2 * config.vision.width * attended_pairs(config.vision, workload.rows, workload.cols)
    mergers = _weights(config, "vision/merger/", "vision/deepstack/") * workload.visual_tokens
    return 2 * batch * (decoder + head + tower + mergers)


def attended_pairs(tower: VisionConfig, rows: int, cols: int) -> int:
    """Return the pairs of patches of a picture that see each other, summed over the blocks."""
    whole = len(tower.whole_blocks) if tower.window_side else tower.depth
    in_windows = _squares(rows, tower.window_side) * _squares(cols, tower.window_side)
    return whole * (rows * cols) ** 2 + (tower.depth - whole) * in_windows


def _squares(length: int, side: int) -> int:
    """Return the sum of the squared lengths of the parts that windows cut a side into."""
    return length // side * side**2 + (length % side) ** 2 if side else length**2


def _weights(config: VLMConfig, *prefixes: str) -> int:
    """Return the number of weights of linear maps: each is one multiplication for each token."""
    return sum(
        math.prod(table.shape(entry, config))
        for entry in table.entries(config)
        if entry.path.startswith(prefixes) and entry.path.endswith("/kernel")
    )
