"""Estimates of the memory that CUDA's libraries take and that no compiled program states.

A program that is compiled without a GPU states the work space of cuBLAS, but not that of cuDNN: it
depends on the kernel that cuDNN chooses on the card. CUDA and NCCL take their memory outside of
that which JAX takes when it starts.
"""

import re

from rrft_jax.parallel.gpus import GIB

CUDNN = "cuDNN's work space"
CUDA = {"CUDA and its kernels": 1.0 * GIB}
NCCL = {"NCCL's buffers": 1.0 * GIB}


def beside(devices: int) -> dict[str, float]:
    """Return the bytes on each of the GPUs of a run that lie beside JAX's memory, by their role."""
    return CUDA | (NCCL if devices > 1 else {})


def workspace(text: str) -> float:
    """Return the bytes that cuDNN's attention needs at most at once in a compiled program.

    A backward pass adds up the gradient of the queries in float32, beside a float32 number for each
    row of the scores. If query heads share a key head, the gradients of keys and values have a copy
    for each query head. A forward pass needs next to nothing.
    """
    return max(map(_backward, _BACKWARD.findall(text)), default=0.0)


_BACKWARD = re.compile(r'custom_call_target="__cudnn\$fmha\w*Backward", ([^\n]*)')


def _backward(attributes: str) -> float:
    operands = re.search(r"operand_layout_constraints=\{(.*?\})\}", attributes)[1]
    shapes = [tuple(map(int, sizes.split(","))) for sizes in re.findall(r"\[([\d,]+)\]", operands)]
    (batch, length, heads, size), (_, keys, key_heads, _) = shapes[:2]
    rows = batch * heads * length
    copies = 2 * batch * heads * keys * size if key_heads < heads else 0
    return 4 * rows * size + 4 * rows + 2 * copies
