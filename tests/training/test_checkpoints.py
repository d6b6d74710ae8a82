"""Checkpoints that a copy left half: they are left out, said, overwritten, and never come back."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.errors import UserError
from rrft_jax.training.checkpoints import Checkpoints, Damaged
from rrft_jax.training.state import TrainState

STEPS = (2, 4, 6)


def state(step, width=100):
    key = jax.random.key(step)
    params = {"a": jax.random.normal(key, (30, width)), "b": {"c": jnp.full((5000,), step / 7)}}
    params["b"]["c"] = params["b"]["c"].astype(jnp.bfloat16)
    opt_state = {"mu": jnp.ones((7,)) * step}, jnp.int32(step)
    return TrainState(jnp.int32(step), params, opt_state, jnp.bool_(True))


def check(restored, step):
    got, position = restored
    assert position == {"batches": step}
    jax.tree.map(np.testing.assert_array_equal, got, state(step))


def save(folder, *steps, best=None):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(step, state(step), {"batches": step}, best)
    checkpoints.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "sft"
    save(folder, *STEPS, best=2)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "sft")
    return tmp_path / "sft"


def files(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


HARM = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
}


@pytest.mark.parametrize("how", HARM)
def test_whatever_file_of_the_newest_is_harmed_the_one_before_is_taken(how, folder, capfd):
    """But for the list of the files itself: without it the others speak for themselves."""
    newest = folder / "6"
    for file in files(newest):
        if file.name == "sizes.json" and how == "missing":
            continue
        content = file.read_bytes()
        HARM[how](file)
        checkpoints = Checkpoints(folder)
        check(checkpoints.restore(state(0)), 4)
        assert checkpoints.latest == 4
        checkpoints.close()
        said = capfd.readouterr().err
        name = str(file.relative_to(newest))
        assert said.count("\n") == 1 and f"{folder}: step 6 is incomplete" in said and name in said
        file.write_bytes(content)
    check(Checkpoints(folder).restore(state(0)), 6)


@pytest.mark.parametrize("name", ["state/_METADATA", "state/manifest.ocdbt", "loader/metadata", ""])
def test_without_a_list_of_files_what_can_not_be_read_is_left_out(name, folder, capfd):
    """As a copy has it that was cut off early; "" leaves an empty folder."""
    for file in files(folder / "6"):
        if not name or file.name == "sizes.json":
            file.unlink()
    if name:
        (folder / "6" / name).unlink()
    check(Checkpoints(folder).restore(state(0)), 4)
    assert "step 6 is incomplete" in capfd.readouterr().err


@pytest.mark.parametrize("content", ["", "null", "[1]", '{"state/_METADATA": null}', '{"a": "b"}'])
def test_a_list_of_files_that_is_none_is_damage(content, folder, capfd):
    (folder / "6" / "sizes.json").write_text(content)
    check(Checkpoints(folder).restore(state(0)), 4)
    assert (
        "step 6 is incomplete and is passed over: sizes.json can't be read"
        in capfd.readouterr().err
    )


def test_arrays_that_are_not_there_are_found_by_reading(folder):
    """Sizes are right, contents are not: a disk that was full, or a copy with holes."""
    for file in (folder / "6" / "state" / "ocdbt.process_0" / "d").iterdir():
        file.write_bytes(bytes(file.stat().st_size))
    check(Checkpoints(folder).restore(state(0)), 4)


def test_a_checkpoint_of_an_older_release_is_read(folder):
    (folder / "6" / "sizes.json").unlink()
    check(Checkpoints(folder).restore(state(0)), 6)


def test_files_that_were_added_do_no_harm(folder):
    (folder / "6" / "state" / ".DS_Store").write_bytes(b"x")
    (folder / "notes").mkdir()
    check(Checkpoints(folder).restore(state(0)), 6)


@pytest.mark.parametrize("step", [5, 6, 7])
def test_a_damaged_one_goes_when_another_one_is_saved(step, folder):
    for name in ("4", "6"):
        files(folder / name)[-1].unlink()
    checkpoints = Checkpoints(folder)
    check(checkpoints.restore(state(0)), 2)
    assert {"4", "6"} <= {file.name for file in folder.iterdir()}  # until there's a newer one
    checkpoints.save(step, state(step), {"batches": step})
    checkpoints.close()
    assert sorted(file.name for file in folder.iterdir()) == ["2", str(step)]
    check(Checkpoints(folder).restore(state(0)), step)


def test_several_damaged_ones_are_left_out_and_without_a_whole_one_it_says_what_to_do(
    folder, capfd
):
    for step in STEPS:
        files(folder / str(step))[-1].unlink()
    with pytest.raises(
        UserError, match=re.escape(f"{folder}: all of its checkpoints are incomplete")
    ):
        Checkpoints(folder).restore(state(0))
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 3 and all("is incomplete" in line for line in said)


def test_a_whole_one_of_another_model_is_an_error_as_ever(folder, capfd):
    with pytest.raises(UserError, match=r"step 6 doesn't fit this run \(params/a is \(30, 100\) t"):
        Checkpoints(folder).restore(state(0, width=50))
    other = state(0)
    with pytest.raises(UserError, match="opt_state/1 is .* there and missing here"):
        Checkpoints(folder).restore(other.replace(opt_state=other.opt_state[:1]))
    # Also where the newest is damaged: the one before says the same.
    files(folder / "6")[-1].unlink()
    with pytest.raises(UserError, match="step 4 doesn't fit this run"):
        Checkpoints(folder).restore(state(0, width=50))


def test_parameters_of_a_damaged_step_are_not_given(folder):
    got = Checkpoints(folder).restore_params(2, state(0).params)
    jax.tree.map(np.testing.assert_array_equal, got, state(2).params)
    files(folder / "2" / "state")[-1].unlink()
    with pytest.raises(Damaged, match="is missing"):
        Checkpoints(folder).restore_params(2, state(0).params)
    with pytest.raises(Damaged):
        Checkpoints(folder).restore_params(3, state(0).params)


def test_the_list_of_files_names_all_of_them(saved):
    for step in STEPS:
        sizes = json.loads((saved / str(step) / "sizes.json").read_text())
        found = {str(file.relative_to(saved / str(step))) for file in files(saved / str(step))}
        assert found == {*sizes, "sizes.json"}
