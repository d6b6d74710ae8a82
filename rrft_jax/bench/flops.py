"""The number of floating-point operations of a forward pass."""

from rrft_jax.bench.workload import Workload


def score_flops(workload: Workload) -> float:
    """Return the operations of `score` without gradient.

    Only matrix products count, without masked scores. A backward pass needs twice as many.
    Recomputation does not count: model FLOPs utilisation (https://arxiv.org/abs/2204.02311) is
    defined by the operations that the result needs.
    """
    text, vision = workload.model.text, workload.model.vision
    batch, group, length = workload.prompts, workload.samples, workload.new_tokens
    prompt, patches = workload.prompt_tokens, workload.rows * workload.cols
    heads, kv_heads = text.heads * text.head_size, text.kv_heads * text.head_size
    layer = 2 * text.width * (heads + kv_heads) + 3 * text.width * text.mlp_width
    pairs = prompt * (prompt + 1) / 2 + group * length * (prompt + (length + 1) / 2)
    decoder = layer * (prompt + group * length) + 2 * heads * pairs
    head = text.width * text.vocab_size * group * length
    block = 4 * vision.width**2 + 2 * vision.width * vision.mlp_width
    tower = vision.depth * (block + 2 * vision.width * patches) + vision.patch_values * vision.width
    merged = vision.width * vision.merge_size**2
    merger = merged * (merged + vision.out_width)
    pictures = tower * patches + merger * workload.visual_tokens
    return 2 * batch * (text.depth * decoder + head + pictures)
