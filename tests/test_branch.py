"""A new run begins at a checkpoint of another one; what does not fit is named at once."""

import pathlib
import re
import shutil

import pytest

from rrft_jax import branch, fields, workdir
from rrft_jax.branch import Point
from rrft_jax.errors import UserError
from rrft_jax.settings import Config, GRPOSettings, SFTSettings

CONFIG = Config(stages=("sft", "grpo"), sft=SFTSettings(steps=4), grpo=GRPOSettings(steps=6))
STEPS = {"sft": 4, "grpo": 6}
SAVED = {"sft": (2, 4), "grpo": (2, 3)}


@pytest.fixture
def run(tmp_path):
    """The folder of a run, its checkpoints without content."""
    folder = tmp_path / "a"
    workdir.claim(CONFIG, folder, "abc")
    for stage, steps in SAVED.items():
        for step in steps:
            at = workdir.stage_folder(folder, stage) / str(step) / "state"
            at.mkdir(parents=True)
            (at / "data").write_text(f"{stage} {step}")
    return folder


def find(text, config=CONFIG, weights="abc"):
    return branch.find(str(text), config, weights)


@pytest.mark.parametrize(
    "point, stage, step",
    [
        ("", "grpo", 3),
        (":2", "grpo", 2),
        (":4", "sft", 4),
        (":sft@2", "sft", 2),
        (":grpo@3", "grpo", 3),
    ],
)
def test_a_checkpoint_is_found_and_its_name_says_all(run, point, stage, step):
    found = find(f"{run}{point}")
    assert found == Point(run, stage, step) and str(found) == f"{run}:{stage}@{step}"
    assert Point.parse(str(found)) == found


def test_a_relative_folder_and_a_tilde_are_found(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    monkeypatch.setenv("HOME", str(run.parent))
    assert find("a:2") == find("~/a:2") == Point(run, "grpo", 2)


@pytest.mark.parametrize(
    "point, message",
    [
        (":9", "no such checkpoint; {run} has those after sft: 2, 4; grpo: 2, 3"),
        (":grpo@4", "no such checkpoint; {run} has those after sft: 2, 4; grpo: 2, 3"),
        (":dpo@4", "no such checkpoint; {run} has those after sft: 2, 4; grpo: 2, 3"),
        (":x", "a:x: not the folder of a run"),
        ("/none:2", "none: not the folder of a run"),
    ],
)
def test_a_wrong_place_is_named_with_the_right_ones(run, point, message):
    with pytest.raises(UserError, match=re.escape(message.format(run=run))):
        find(f"{run}{point}")


@pytest.mark.parametrize(
    "point, changes, message",
    [
        ("", {"sft.b1": 0.5}, "sft.b1 is 0.9 there and 0.5 here, but sft has ended there; leave"),
        ("", {"sft.steps": 5}, "sft.steps is 4 there and 5 here, but sft has ended there"),
        ("", {"grpo.freeze": "x"}, "grpo.freeze is '' there and 'x' here, but the optimizer has"),
        (":4", {"sft.b1": 0.5}, "sft.b1 is 0.9 there and 0.5 here, but no step of sft is left; le"),
        ("", {"stages": ("grpo",)}, "so far are sft, grpo, and those of this config grpo; take"),
        (":sft@2", {"stages": ()}, "so far are sft, and those of this config none"),
    ],
)
def test_a_config_that_can_not_go_on_from_there_is_refused(run, point, changes, message):
    with pytest.raises(UserError, match=message):
        find(f"{run}{point}", fields.replaced(CONFIG, changes))


def test_a_model_or_a_number_of_steps_that_does_not_fit_is_refused(run):
    with pytest.raises(UserError, match="started from another model"):
        find(run, weights="xyz")
    branch.check_steps(find(run), STEPS)
    with pytest.raises(UserError, match="grpo has 2 steps here; expected 3 or more, by --config.g"):
        branch.check_steps(find(run), {"sft": 4, "grpo": 2})
    with pytest.raises(UserError, match="sft has 9 steps here, and its last .* is after step 4"):
        branch.check_steps(find(run), {"sft": 9, "grpo": 6})
    shutil.rmtree(workdir.stage_folder(run, "sft"))
    with pytest.raises(UserError, match="its last checkpoint there is after step 0; expected the"):
        branch.check_steps(find(run), STEPS)


def test_what_comes_after_the_checkpoint_is_free(run):
    changes = {"grpo.beta": 0.1, "grpo.batch_size": 32, "seed": 3, "data.path": "d", "sft.b1": 0.5}
    config = fields.replaced(CONFIG, changes)
    assert find(f"{run}:sft@2", config) == Point(run, "sft", 2)
    del changes["sft.b1"]
    assert find(run, fields.replaced(CONFIG, changes)) == Point(run, "grpo", 3)


def begin(point, folder):
    branch.start(point, folder)
    workdir.claim(CONFIG, folder, "abc", str(point))
    branch.finish(folder)


def contents(folder: pathlib.Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "config.json"]
    return {file.relative_to(folder).as_posix(): file.read_text() for file in files}


@pytest.mark.parametrize("links", [True, False])
def test_the_new_run_has_the_checkpoint_and_the_ends_of_the_stages_before(
    run, tmp_path, links, monkeypatch
):
    if not links:  # another disk

        def refuse(*_):
            raise OSError

        monkeypatch.setattr(branch.os, "link", refuse)
    new = tmp_path / "b"
    (new / "checkpoints.partial" / "grpo" / "9").mkdir(parents=True)  # of a start that was killed
    begin(find(f"{run}:grpo@2"), new)
    assert contents(new) == {
        "checkpoints/sft/4/state/data": "sft 4",
        "checkpoints/grpo/2/state/data": "grpo 2",
    }
    begin(find(f"{run}:sft@2"), tmp_path / "c")
    assert contents(tmp_path / "c") == {"checkpoints/sft/2/state/data": "sft 2"}
    with pytest.raises(UserError, match="b/checkpoints: there already; give another --workdir"):
        branch.start(find(run), new)


def test_a_start_that_is_stopped_anywhere_is_made_again_or_finished(run, tmp_path):
    point, new = find(f"{run}:sft@2"), tmp_path / "b"
    started = {"checkpoints/sft/2/state/data": "sft 2"}
    branch.start(point, new)  # stopped before config.json
    begin(point, new)
    assert contents(new) == started
    new = tmp_path / "c"
    branch.start(point, new)
    workdir.claim(CONFIG, new, "abc", str(point))  # stopped after it
    branch.finish(new)
    assert contents(new) == started
    branch.finish(new)  # at every resumption
    assert contents(new) == started
    new = tmp_path / "d"
    branch.start(point, new)  # stopped; then a run of the folder's own
    workdir.claim(CONFIG, new, "abc")
    branch.finish(new)
    assert not (new / "checkpoints").exists()


def test_a_branch_that_has_begun_goes_on_with_the_argument_or_without(run, tmp_path):
    new = tmp_path / "b"
    point = find(f"{run}:2")
    branch.start(point, new)
    workdir.claim(CONFIG, new, "abc", str(point))
    for text in (run, f"{run}:2", f"{run}:grpo@2"):  # the other run may have newer ones meanwhile
        branch.check_begun(str(text), new)
    workdir.claim(CONFIG, new, "abc")
    assert workdir.read(new)["branch_from"] == str(point) and workdir.read_config(new) == CONFIG
    with pytest.raises(UserError, match=f"began at {point}; give another --workdir, or leave"):
        branch.check_begun(f"{run}:3", new)
    with pytest.raises(UserError, match="a run that began at its own start; give another"):
        branch.check_begun(str(new), run)
    workdir.claim(fields.replaced(CONFIG, {"checkpoint_every": 7}), new, "abc")
    assert workdir.read(new)["branch_from"] == str(point)
