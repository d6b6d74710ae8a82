"""The growth of a step: what an exponent says, and that both forms of a step are measured."""

import pytest

from rrft_jax.bench import growth
from rrft_jax.bench.workload import Workload
from tests import tiny

BASE = Workload(
    prompts=1, prompt_tokens=12, rows=2, cols=4, samples=2, new_tokens=3, model=tiny.CONFIG
)


def test_exponents_are_those_of_powers_between_neighbours():
    assert growth.neighbours([1, 2, 8], [3, 6, 96]) == [1, 2]
    assert growth.neighbours([16, 32], [5, 5]) == [0]


def test_each_axis_has_the_exponents_of_each_part_in_both_forms(monkeypatch):
    measured = []

    def measure(workload, repeat, repeats):
        measured.append((workload, repeat))
        prompts = workload.prompts * (workload.samples if repeat else 1)
        return dict.fromkeys(growth.PARTS, prompts * workload.cols)

    monkeypatch.setattr(growth, "measure", measure)
    sizes = {"samples": (1, 2, 4), "patches": (8, 16)}
    result = growth.bench_growth(1, BASE, sizes)
    for part in growth.PARTS:
        found = result["exponents"]["samples"][part]
        assert found == {"shared": [0, 0], "repeated": [1, 1]}
        assert result["exponents"]["patches"][part] == {"shared": [1], "repeated": [1]}
    assert len(measured) == len(set(measured)) == 2 * 4  # the base is measured once


@pytest.mark.parametrize("axis", growth.SIZES)
def test_the_base_is_one_of_the_sizes_and_its_picture_fits(axis):
    workloads = [growth.resized(growth.BASE, axis, value) for value in growth.SIZES[axis]]
    assert growth.BASE in workloads
    assert all(work.visual_tokens + 8 < work.prompt_tokens for work in workloads)


def test_a_step_with_repeated_prompts_is_measured():
    found = growth.measure(BASE, repeat=True, repeats=1)
    assert set(found) == set(growth.PARTS) and all(value > 0 for value in found.values())
