"""The cost of a cell: what its formula counts."""

import dataclasses
import json
from pathlib import Path

import pytest

from rrft_jax.assets import TINY
from rrft_jax.bench.flops import score_flops
from rrft_jax.bench.workload import Workload
from rrft_jax.fields import replaced
from rrft_jax.hf.pretrained import read_config
from rrft_jax.study import cost
from rrft_jax.study.cells import Choice, read
from rrft_jax.study.cost import Cost, Costs, Lengths, stage_flops

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/study.py")
LENGTHS = Lengths(samples=100, patches=64, prompt=70, target=30)


@pytest.fixture(scope="module")
def model():
    return read_config(TINY)[0]


@pytest.fixture(scope="module")
def cells():
    found = read(CONFIG, (), Path("studies/x"), Choice(samples=[16], seeds=[0]))
    return {cell.paradigm: cell for cell in found}


def forward(model, group, tokens):
    return score_flops(Workload(1, 70, 64, 1, group, tokens, model))


def test_sft_is_a_forward_and_a_backward_pass(model, cells):
    trained_whole = replaced(cells["cot_sft"].config, {"sft.freeze": ""})
    assert stage_flops(trained_whole, "sft", model, LENGTHS, 0) == 3 * forward(model, 1, 30)


def test_a_frozen_tower_has_no_backward_pass(model, cells):
    whole = forward(model, 1, 30)
    tower = whole - score_flops(Workload(1, 70, 0, 1, 1, 30, model))
    assert 0 < tower < whole
    counted = stage_flops(cells["cot_sft"].config, "sft", model, LENGTHS, 0)
    assert counted == pytest.approx(3 * whole - 2 * tower)


def test_an_adapter_needs_no_gradients_of_weights(model, cells):
    config = replaced(cells["reason_rft_zero"].config, {"lora.rank": 8, "grpo.beta": 0.0})
    whole = forward(model, 8, 20.5)
    tower = whole - score_flops(Workload(1, 70, 0, 1, 8, 20.5, model))
    counted = stage_flops(config, "grpo", model, LENGTHS, 20.5)
    assert counted == pytest.approx(whole + 2 * whole - tower)


@pytest.mark.parametrize(
    "changes, passes",
    [
        ({}, 1 + 1 + 3),
        ({"grpo.beta": 0.0}, 1 + 3),
        ({"grpo.mini_batches": 2}, 1 + 1 + 1 + 3),
        ({"grpo.num_iterations": 2}, 1 + 1 + 1 + 6),
    ],
)
def test_grpo_samples_scores_and_updates(model, cells, changes, passes):
    config = replaced(cells["reason_rft_zero"].config, changes)
    assert not config.grpo.freeze
    counted = stage_flops(config, "grpo", model, LENGTHS, 20.5)
    assert counted == pytest.approx(passes * forward(model, 8, 20.5))


def test_before_a_run_completions_count_at_their_longest(cells):
    costs = Costs()
    before = costs.of(cells["reason_rft_zero"])
    line = {"completion_length": 20.0, "seconds_step": 2.0}
    after = costs.of(cells["reason_rft_zero"], {"grpo": [line]})
    assert (before.steps, before.samples_seen, before.completions) == ({"grpo": 1}, 16, 128)
    assert after.flops < before.flops and (before.seconds, after.seconds) == (None, 2.0)


def test_a_stage_that_another_cell_has_made_has_no_time_here(cells):
    lines = {"grpo": [{"completion_length": 20.0, "seconds_step": 2.0}]}
    assert Costs().of(cells["reason_rft"], lines).seconds is None


def test_the_time_of_steps_is_without_their_compilation(cells):
    times = [9.0, 2.0, 2.0]
    lines = {"grpo": [{"completion_length": 20.0, "seconds_step": time} for time in times]}
    assert Costs().of(cells["reason_rft_zero"], lines).seconds == 2.0  # one step


def test_an_estimate_is_by_the_speed_of_the_same_paradigm(cells, tmp_path):
    """Completions count at their longest on both sides."""
    slow, fast, asked = (
        dataclasses.replace(cells[name], folder=tmp_path / name / name)
        for name in ("reason_rft_zero", "ans_sft", "cot_sft")
    )
    for cell, seconds in ((slow, 100.0), (fast, 10.0)):
        cell.folder.mkdir(parents=True)
        own = dataclasses.asdict(Cost({}, 1, 1, 1.0, seconds))
        (cell.folder / cost.NAME).write_text(json.dumps(own))
    expected = {cell.name: Cost({}, 1, 1, 10.0) for cell in (slow, fast)}
    expected[asked.name] = Cost({}, 1, 1, 30.0)
    assert cost.estimate(fast, expected, [slow, fast]) == pytest.approx(10)
    assert cost.estimate(asked, expected, [slow, fast]) == pytest.approx(30 * 110 / 20)
    assert cost.estimate(asked, expected, []) is None


def test_a_cost_is_json(cells):
    found = Costs().of(cells["ans_sft"])
    assert Cost(**json.loads(json.dumps(dataclasses.asdict(found)))) == found
