"""The operations of matrix products that XLA compiles itself: dots and convolutions."""

import math
import re

from rrft_jax.plan.hlo.module import Computation, Instruction, arrays


def flops(x: Instruction, within: Computation) -> float:
    """Return the operations of one instruction; 0 if it is no matrix product."""
    return {"dot": _dot, "convolution": convolution}.get(x.opcode, lambda *_: 0.0)(x, within)


def product(x: Instruction, within: Computation, contracted: list[int]) -> float:
    """Return the operations of a product over these axes of its first operand."""
    left = arrays(within[x.operands[0]].shape)[0].dimensions
    return 2.0 * x.arrays[0].elements * math.prod(left[axis] for axis in contracted)


def _dot(x: Instruction, within: Computation) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.attributes)[1]
    return product(x, within, [int(axis) for axis in contracted.split(",") if axis])


def convolution(x: Instruction, within: Computation) -> float:
    """Return the operations of a convolution.

    On a TPU a matrix product is a convolution, and its batch axes may appear as spatial axes. On
    these, only the window positions outside the padding count.
    """
    left, kernel, out = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes).groups()
    left_shape, kernel_shape = (within[name].arrays[0].dimensions for name in x.operands[:2])
    out_shape = x.arrays[0].dimensions
    inner = kernel_shape[kernel.index("i")]
    total = 2.0 * out_shape[out.index("b")] * out_shape[out.index("f")] * inner
    window = dict(
        re.findall(r"(\w+)=(\S+)", (re.search(r"window=\{([^}]*)\}", x.attributes) or " {}")[1])
    )
    for axis in sorted(set(out) & set("0123456789")):
        i = int(axis)
        parts = {name: value.split("x")[i] for name, value in window.items()}
        stride, hole, spread = (
            int(parts.get(name, 1)) for name in ("stride", "rhs_dilate", "lhs_dilate")
        )
        low = int(parts.get("pad", "0_0").split("_")[0])
        size = (left_shape[left.index(axis)] - 1) * spread + 1
        steps = out_shape[out.index(axis)]
        width = kernel_shape[kernel.index(axis)]
        positions = (o * stride + k * hole - low for o in range(steps) for k in range(width))
        total *= sum(0 <= p < size and p % spread == 0 for p in positions)
    return total
