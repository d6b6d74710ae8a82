"""The numbers of a study, from predictions that were written by hand."""

import json
import math
from pathlib import Path

import pytest

from rrft_jax import command, workdir
from rrft_jax.errors import UserError
from rrft_jax.evaluation.results import Results
from rrft_jax.study import outcome, tables
from rrft_jax.study.figures import figures
from rrft_jax.study.outcome import END, Mean
from tests.evaluation.files import ours, tagged

CONFIG = f"--config={Path(__file__).resolve().parents[2]}/configs/study.py:paradigm="


def write_cell(out: Path, paradigm: str, samples: int, seed: int, right: int) -> Path:
    """Write a finished cell that answers the first `right` of ten held-out samples."""
    folder = out / "visual_counting" / f"{paradigm}-{samples}-{seed}"
    own = [f"--config.seed={seed}", f"--config.data.samples={samples}"]
    config, _ = command.parse([CONFIG + paradigm, *own])
    workdir.claim(config, folder, "weights")
    stage = config.stages[-1]
    results = Results(folder, {stage: 1}, "id")
    lines = [{"stage": stage, "step": n + 1, "reward_accuracy": n / 9} for n in range(10)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for row, number in (("start", 0), (stage, right)):
        said = [(str(n), tagged("1" if n < number else "2"), "1") for n in range(10)]
        ours(results.predictions(row, "id"), said)
        results.add(row, "id", {"accuracy": number / 10, "samples": 10, "standard_error": 0.1})
    (folder / "table.md").write_text("")
    return folder


@pytest.fixture
def study(tmp_path):
    for seed, (theirs, ours_) in enumerate([(2, 6), (4, 7), (3, 5)]):
        write_cell(tmp_path, "cot_sft", 400, seed, theirs)
        write_cell(tmp_path, "reason_rft_zero", 400, seed, ours_)
    write_cell(tmp_path, "cot_sft", 1600, 0, 8)
    return tmp_path


def test_a_mean_over_seeds_has_the_error_of_a_sample():
    mean = Mean.of([0.1, 0.2, 0.3])
    assert mean.mean == pytest.approx(0.2) and mean.seeds == 3
    assert mean.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert Mean.of([0.5]) == Mean(0.5, None, 1)


def test_accuracies_are_those_of_the_predictions(study):
    found = outcome.accuracies(outcome.read(study))
    ends = {(one.paradigm, one.samples): one.accuracy for one in found if one.row == END}
    assert ends["cot_sft", 400].mean == pytest.approx(0.3)
    assert ends["reason_rft_zero", 400].mean == pytest.approx(0.6)
    assert ends["cot_sft", 1600] == Mean(0.8, None, 1)


def test_differences_are_paired_by_seed_and_sample(study):
    [one] = outcome.differences(outcome.read(study))
    assert (one.paradigm, one.over, one.samples) == ("reason_rft_zero", "cot_sft", 400)
    gains = Mean.of([0.4, 0.3, 0.2])
    assert one.gain.mean == pytest.approx(gains.mean)
    assert one.gain.standard_error == pytest.approx(gains.standard_error)
    # Of ten samples, 4, 3 and 2 are gained, so the variances are those of shares.
    variances = [p * (1 - p) / 10 for p in (0.4, 0.3, 0.2)]
    assert one.sampling_error == pytest.approx(math.sqrt(sum(variances)) / 3)


def test_seeds_that_only_one_paradigm_has_are_not_compared(study):
    write_cell(study, "reason_rft_zero", 1600, 5, 9)
    assert {one.samples for one in outcome.differences(outcome.read(study))} == {400}


def test_the_table_says_how_many_seeds_a_number_has(study):
    text = tables.table(outcome.read(study))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["cot_sft", "400", "30.0 ± 5.8", "3", "–", "–", "–"] in rows
    assert ["cot_sft", "1,600", "80.0", "1", "–", "–", "–"] in rows
    assert ["reason_rft_zero over cot_sft", "400", "+30.0 ± 5.8", "3"] in rows
    assert "paper" not in text  # the samples are drawn


def test_the_figures_have_a_line_for_each_paradigm(study):
    accuracy, bars, dynamics = figures(outcome.read(study))
    [panel] = accuracy.panels
    assert [(line.name, line.x) for line in panel.lines] == [
        ("cot_sft", [400, 1600]),
        ("reason_rft_zero", [400]),
    ]
    assert panel.lines[0].y == pytest.approx([30, 80])
    assert panel.lines[0].high[0] - 30 == pytest.approx(5.77, abs=0.01)
    assert [line.name for line in bars.panels[0].lines] == ["cot_sft"]  # at 1,600
    assert [panel.title for panel in dynamics.panels] == ["reward: accuracy"]
    assert dynamics.panels[0].lines[0].y == pytest.approx([n / 9 for n in range(10)])


def test_an_unfinished_cell_does_not_count(study):
    (study / "visual_counting" / "cot_sft-1600-0" / "table.md").unlink()
    assert len(outcome.read(study)) == 6


def test_a_folder_without_a_finished_cell_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no cell of a study is finished there"):
        outcome.read(tmp_path)
