"""The operations of kernels that XLA calls but doesn't compile itself, by the names of their calls.

cuBLAS  matrix products on a GPU
cuDNN   fused attention on a GPU
splash  attention on a TPU, by the blocks that its kernels visit
"""

import json
import math
import re
from typing import NamedTuple

from rrft_jax.plan.hlo.module import Computation, Instruction, Module, arrays
from rrft_jax.plan.hlo.products import product

# The matrix products of an attention. Forwards: scores, output. Backwards: scores, the gradients of
# weights, queries, keys and values.
FORWARD, BACKWARD = 2, 5


# Calls without matrix products: XLA's own helpers, such as AllocateBuffer, and sorting on a GPU.
_NO_PRODUCTS = re.compile(r"[A-Z]\w*$|__gpu\$TopK|__cub\$")


class Kernels:
    """The kernels that a module calls."""

    def __init__(self, module: Module):
        # All kernels of a splash attention visit the same blocks, but some have a larger grid. So
        # take the smallest grid of the kernels with equal lengths.
        self.visited: dict[tuple[int, int], int] = {}
        for computation in module.computations.values():
            for x in filter(_is_splash, computation.values()):
                call = _Splash.of(x)
                least = self.visited.get(call.lengths, call.area)
                self.visited[call.lengths] = min(least, call.area)

    def flops(self, x: Instruction, within: Computation) -> float | None:
        """Return the operations of a call; None if they aren't known."""
        if _is_splash(x):
            call = _Splash.of(x)
            return call.flops_a_pair * self.visited[call.lengths]
        if x.target.startswith("__cublas$"):
            return _cublas(x, within)
        if x.target.startswith("__cudnn$fmha"):
            return _cudnn_attention(x, within)
        return 0.0 if _NO_PRODUCTS.match(x.target) else None


def is_workspace(x: Instruction, index: int) -> bool:
    """Say whether an array of a result is only a work space, the last one of a GPU library."""
    return x.target.startswith("__cu") and 0 < index == len(x.arrays) - 1


def _cublas(x: Instruction, within: Computation) -> float:
    numbers = _settings(x)["gemm_backend_config"]["dot_dimension_numbers"]
    return product(x, within, list(map(int, numbers["lhs_contracting_dimensions"])))


def _cudnn_attention(x: Instruction, within: Computation) -> float:
    """Return the operations of fused attention, without the pairs that a causal mask leaves out.

    All other masks are data. So all pairs of a query and a key count.
    """
    settings = _settings(x)["cudnn_fmha_backend_config"]
    *rows, queries, keys = map(int, settings["intermediate_tensor_shape"]["dimensions"])
    pairs = queries * keys
    if "CAUSAL" in settings["mask_type"]:
        window = settings.get("sliding_window_length") or keys
        pairs = sum(min(query + 1, window, keys) for query in range(queries))
    products = BACKWARD if "Backward" in x.target else FORWARD
    size = within[x.operands[0]].arrays[0].dimensions[-1]
    return 2.0 * products * math.prod(rows) * pairs * size


def _settings(x: Instruction) -> dict:
    """Return the configuration of a library's call."""
    text = x.attributes.partition("backend_config=")[2]
    return json.JSONDecoder().raw_decode(text)[0]


class _Splash(NamedTuple):
    """A call of one of splash attention's kernels.

    Attributes:
      lengths: the numbers of queries and of keys.
      area: the number of (query, key) pairs in the blocks of its grid.
      flops_a_pair: the operations per pair, for all heads together.
    """

    lengths: tuple[int, int]
    area: int
    flops_a_pair: float

    @classmethod
    def of(cls, x: Instruction) -> "_Splash":
        """Read a call from its instruction."""
        operands = re.search(r"operand_layout_constraints=\{(.*?\})\}", x.attributes)[1]
        inputs = arrays(operands)
        grid = next(x.dimensions for x in inputs if x.dtype in ("s8", "s16", "s32"))
        queries, keys = [x.dimensions for x in inputs if "f" in x.dtype][:2]
        # The matrix products of each kernel. Forward: scores, output. dq: scores, the gradients of
        # weights and queries. dkv: scores, the gradients of weights, keys and values.
        kind, products = next(
            (kind, n) for kind, n in (("_dq", 3), ("_dkv", 4), ("", 2)) if kind in x.name
        )
        blocks = dict(re.findall(r'(block_\w+)\\?": (\d+)', x.attributes))
        area = math.prod(int(blocks[f"block_{side}{kind}"]) for side in ("q", "kv"))
        return cls(
            (queries[-2], keys[-2]),
            math.prod(grid[-2:]) * area,
            2.0 * products * math.prod(queries[:-2]) * queries[-1],
        )


def _is_splash(x: Instruction) -> bool:
    return x.opcode == "custom-call" and x.name.startswith("splash_mha")
