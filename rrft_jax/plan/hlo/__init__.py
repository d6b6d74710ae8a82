"""The cost of a compiled program, read off its optimised HLO: operations, bytes, collectives."""

from rrft_jax.plan.hlo.cost import Cost, cost
from rrft_jax.plan.hlo.module import Instruction, Module

__all__ = ["Cost", "Instruction", "Module", "cost"]
