"""The cells of a study: their samples, their settings, and the mistakes that are seen first."""

from pathlib import Path

import pytest

from rrft_jax.data.sources import Data
from rrft_jax.errors import UserError
from rrft_jax.study import cells
from rrft_jax.study.cells import Choice, leader, read
from rrft_jax.tasks import TASKS

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/study.py")
OUT = Path("studies/x")


def of(*overrides, **choice):
    return read(CONFIG, overrides, OUT, Choice(**choice))


def test_a_study_has_every_combination_the_cheap_ones_first():
    found = of()
    assert len(found) == len({cell.folder for cell in found}) == 4 * 4 * 3
    assert [cell.samples for cell in found] == sorted(cell.samples for cell in found)
    assert found[0].folder == OUT / "visual_counting" / "ans_sft-400-0"


@pytest.mark.parametrize("task", ["visual_counting", "structure_perception"])
def test_all_paradigms_of_a_cell_train_on_the_same_samples(task):
    found = read(f"{CONFIG}:task={task}", (), OUT, Choice(samples=[8], seeds=[3]))
    assert [cell.paradigm for cell in found] == [
        *("ans_sft", "cot_sft", "reason_rft_zero", "reason_rft")
    ]
    for cell in found:
        stages = [source for own in Data.open(cell.config).training.values() for source in own]
        ids = {own.examples[n].id for own in stages for n in range(len(own.examples))}
        expected = Data.open(found[0].config).training["sft"][0].examples
        assert ids == {expected[n].id for n in range(8)}


def test_sft_before_grpo_has_a_quarter_but_not_more_than_the_paper():
    found = of(paradigms=["reason_rft"], seeds=[0])
    sizes = {cell.samples: cell.config.data.activation_samples for cell in found}
    assert sizes == {400: 100, 1_600: 400, 6_400: 1_600, 25_600: 1_600}


def test_a_cell_follows_the_first_one_with_the_same_sft():
    found = of()
    pairs = [(cell, leader(cell, found)) for cell in found]
    led = {cell.folder.name: first.folder.name for cell, first in pairs if first}
    assert led == {f"reason_rft-25600-{seed}": f"reason_rft-6400-{seed}" for seed in (0, 1, 2)}


def test_an_override_counts_where_it_has_an_effect():
    found = of("--config.sft.batch_size=4", "--config.grpo.beta=0.1", samples=[400], seeds=[0])
    assert [cell.config.sft and cell.config.sft.batch_size for cell in found] == [4, 4, None, 4]
    assert [cell.config.grpo and cell.config.grpo.beta for cell in found] == [None, None, 0.1, 0.1]


@pytest.mark.parametrize(
    "overrides, choice, message",
    [
        (["--config.seed=1"], {}, "--config.seed: differs between the cells"),
        (["--config.data.samples=9"], {}, "--samples"),
        (["--config.grpo.beta=0"], {"paradigms": ["ans_sft"]}, "no effect in any cell: the stage"),
        (["--config.sft.nothing=0"], {}, "unknown config key sft.nothing"),
        ([], {"paradigms": ["sft"]}, "paradigm is one of ans_sft"),
        ([], {"seeds": [1, 1]}, "--seeds=1,1: expected each once"),
        ([], {"samples": [0]}, "expected --samples of 4 or more"),
    ],
)
def test_a_mistake_is_named(overrides, choice, message):
    with pytest.raises(UserError, match=message):
        of(*overrides, **choice)


@pytest.mark.parametrize("task", TASKS)
def test_sft_learns_all_thoughts_unless_told_otherwise(task):
    choice = Choice(paradigms=("cot_sft", "reason_rft"), seeds=(0,), samples=(400,))
    for overrides, share in ((), 0.0), (("--config.data.thought_dropout=0.5",), 0.5):
        found = read(f"{CONFIG}:task={task}", overrides, OUT, choice)
        assert [cell.config.data.thought_dropout for cell in found] == [share, share]


def test_a_config_of_one_run_is_no_study():
    with pytest.raises(UserError, match="it states no PARADIGMS"):
        read(CONFIG.replace("study.py", "grpo.py"), (), OUT)


def test_a_cell_is_named_by_its_folder():
    assert of()[0].name == "visual_counting/ans_sft-400-0" and not cells.Cell.finished.fget(of()[0])
