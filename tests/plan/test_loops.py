"""The trips of loops, as XLA writes their conditions."""

import pytest

from rrft_jax.plan.hlo.loops import trips
from rrft_jax.plan.hlo.module import Module


@pytest.mark.parametrize("shape", ["f32[8]{0}", "f32[]"])
def test_a_loop_is_read_without_all_else_that_it_carries(shape):
    """A sum of a sum of a sum would be followed along every way through it."""
    sums = "\n".join(f"  %x.{i + 1} = {shape} add(%x.{i}, %x.{i})" for i in range(64))
    text = f"""HloModule m, num_partitions=1

%body (state: (s32[], {shape})) -> (s32[], {shape}) {{
  %state = (s32[], {shape}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x.0 = {shape} get-tuple-element(%state), index=1
  %three = s32[] constant(3)
  %next = s32[] add(%i, %three)
{sums}
  ROOT %out = (s32[], {shape}) tuple(%next, %x.64)
}}

%condition (state.1: (s32[], {shape})) -> pred[] {{
  %state.1 = (s32[], {shape}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(30)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}}

ENTRY %main (x: {shape}) -> (s32[], {shape}) {{
  %x = {shape} parameter(0)
  %zero = s32[] constant(0)
  %first = (s32[], {shape}) tuple(%zero, %x)
  ROOT %loop = (s32[], {shape}) while(%first), condition=%condition, body=%body
}}
"""
    module = Module.parse(text)
    main = module.computations[module.entry]
    assert trips(module, main["loop"], main) == 10
