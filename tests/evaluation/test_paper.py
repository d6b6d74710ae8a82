"""The paper's rows stand beside ours, split by split."""

import pytest

from rrft_jax.evaluation import paper
from rrft_jax.models.families import RELEASED
from rrft_jax.tasks import TASKS


def test_every_task_of_ours_has_its_columns():
    for task in TASKS:
        assert all(row["id"] for row in paper.cells("2b", task, ["id"]).values())
        assert len(paper.cells("2b", task, ["id"])) == 5


@pytest.mark.parametrize("model", ["2b", "7b"])
def test_five_rows_a_size(model):
    rows = paper.cells(model, "structure_perception", ["id", "ood"])
    assert list(rows) == [
        f"paper: {name}"
        for name in ("zero-shot", "ANS-SFT", "CoT-SFT", "Reason-RFT-Zero", "Reason-RFT")
    ]
    assert all(set(row) == {"id", "ood"} for row in rows.values())


def test_shifted_counting_is_the_mean_of_its_two_parts():
    row = paper.cells("2b", "visual_counting", ["id", "ood"])["paper: Reason-RFT"]
    assert row == {"id": "96.80", "ood": "52.10 (60.00 / 28.40)"}


def test_a_split_may_name_its_task():
    splits = ["visual_counting/id", "spatial_transformation/ood-left", "id"]
    row = paper.cells("7b", "structure_perception", splits)["paper: zero-shot"]
    assert row == dict(zip(splits, ["98.60", "12.72", "43.30"]))


def test_of_other_models_and_splits_nothing_is_reported():
    for model in {"tiny", *RELEASED} - {"2b", "7b"}:
        assert paper.cells(model, "visual_counting", ["id"]) == {}
    assert paper.cells("2b", "visual_counting", ["id-sampled", "ood-left"]) == {}
