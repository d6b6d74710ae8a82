"""Any checkpoint of a run becomes the Hugging Face folder that the run would have exported."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax import export, workdir
from rrft_jax.assets import TINY
from rrft_jax.errors import UserError
from rrft_jax.hf import load_pretrained, save_pretrained
from rrft_jax.hf.weights import file_sizes
from rrft_jax.settings import Config, GRPOSettings, ModelSettings
from rrft_jax.training.checkpoints import Checkpoints
from rrft_jax.training.state import TrainState
from rrft_jax.workdir import stage_folder

SAVED = {"sft": (3, 4), "grpo": (1, 2)}


def weights(stage: str, step: int) -> dict:
    """The parameters after that step."""
    _, params = load_pretrained(TINY, jnp.float32)
    change = np.float32(step + 10 * (stage == "grpo"))
    return jax.tree.map(lambda x: x + change, params)


def claim(run: pathlib.Path, path: str = "", name: str = "tiny") -> None:
    config = Config(
        stages=("sft", "grpo"),
        model=ModelSettings(name=name, path=path),
        grpo=GRPOSettings(rewards={"accuracy": 1.0, "mypackage.rewards.iou": 1.0}),
    )
    fingerprint = workdir.fingerprint(path or TINY, file_sizes(path or TINY))
    workdir.claim(config, run, fingerprint)


def save(run: pathlib.Path, stage: str, *steps: int) -> None:
    checkpoints = Checkpoints(stage_folder(run, stage))
    for step in steps:
        opt_state = {"mean": jnp.zeros(3)}
        state = TrainState(jnp.int32(step), weights(stage, step), opt_state, jnp.bool_(True))
        checkpoints.save(step, state, {"position": step})
    checkpoints.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as runs leave it, without the training."""
    path = tmp_path_factory.mktemp("runs") / "a"
    claim(path)
    for stage, steps in SAVED.items():
        save(path, stage, *steps)
    return path


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "stage", "step", "name"),
    [
        ([], "grpo", 2, "export-grpo"),
        (["--stage=sft"], "sft", 4, "export-sft"),
        (["--stage=sft", "--step=3"], "sft", 3, "export-sft-3"),
        (["--step=1", "--out={}"], "grpo", 1, None),
    ],
)
def test_a_checkpoint_is_written_as_the_run_exports(
    run, arguments, stage, step, name, tmp_path, capsys
):
    before = sorted(run.rglob("checkpoints/*/*"))
    out = run / name if name else tmp_path / "out"
    assert export.main([str(run), *(a.format(out) for a in arguments)]) == 0
    assert capsys.readouterr().out == f"export: {out} ({stage}, after step {step})\n"
    model, _ = load_pretrained(TINY)
    save_pretrained(tmp_path / "expected", model, weights(stage, step))
    assert contents(out) == contents(tmp_path / "expected")
    assert sorted(run.rglob("checkpoints/*/*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage=sft", "--step=5"], "no checkpoint of sft after step 5; it has sft: 3, 4; grpo"),
        (["--stage=dpo"], "no checkpoint of the stage 'dpo'; it has sft: 3, 4; grpo: 1, 2"),
        (["--step=last"], "invalid int value: 'last'"),
        (["--stages=sft"], "unrecognized arguments: --stages=sft"),
        ([f"--out={TINY}"], f"the run started from {TINY}, which would be written over"),
    ],
)
def test_what_there_is_is_listed_where_something_else_was_asked_for(
    run, arguments, message, capsys
):
    assert export.main([str(run), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_no_run_is_written_over(run, tmp_path, capsys):
    """The config.json there would be that of a model, and the run could not go on."""
    claim(tmp_path)
    for folder in (run, tmp_path):
        before = (folder / "config.json").read_bytes()
        assert export.main([str(run), f"--out={folder}"]) == 1
        assert f"--out={folder}: this is the folder of a run" in capsys.readouterr().err
        assert (folder / "config.json").read_bytes() == before


def test_a_run_without_checkpoints_stays_without(tmp_path, capsys):
    claim(tmp_path)
    assert export.main([str(tmp_path)]) == 1
    assert "this run has no checkpoint yet" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    save(tmp_path, "sft", 1)
    assert export.main([str(tmp_path), "--stage=grpo"]) == 1
    assert "it has sft: 1" in capsys.readouterr().err
    assert not stage_folder(tmp_path, "grpo").exists()
    assert export.main([str(tmp_path)]) == 0  # the last stage that has one
    assert (tmp_path / "export-sft" / "model.safetensors").exists()


@pytest.mark.parametrize("content", [None, "{}", '{"model_type": "qwen2_vl"}'])
def test_other_folders_are_no_runs(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert export.main([str(tmp_path)]) == 1
    assert f"{tmp_path}: not the folder of a run" in capsys.readouterr().err


def test_the_model_that_a_run_started_from_must_be_there_unchanged(tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    claim(tmp_path / "run", str(base), "2b")
    save(tmp_path / "run", "sft", 1)
    data = bytearray((base / "model.safetensors").read_bytes())
    data[-2_000_000:] = bytes(2_000_000)
    (base / "model.safetensors").write_bytes(data)
    assert export.main([str(tmp_path / "run")]) == 1
    assert f"{base}: this is not the model that" in capsys.readouterr().err
    shutil.rmtree(base)
    assert export.main([str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "which cannot be read" in error and "base: no such folder" in error


@pytest.mark.parametrize(
    ("folder", "arguments"),
    [
        ("checkpoints", ""),
        ("checkpoints/sft", " --stage=sft"),
        ("checkpoints/sft/3", " --stage=sft --step=3"),
        ("checkpoints/sft/3/state", " --stage=sft --step=3"),
    ],
)
def test_a_folder_of_checkpoints_names_the_command(run, folder, arguments):
    with pytest.raises(UserError) as error:
        load_pretrained(run / folder)
    assert "(orbax)" in str(error.value)
    assert f"python -m rrft_jax.export {run}{arguments}, and give that" in str(error.value)


def test_a_checkpoint_without_its_run_is_called_that_too(run, tmp_path):
    shutil.copytree(run / "checkpoints" / "sft" / "3", tmp_path / "3")
    with pytest.raises(UserError, match="python -m rrft_jax.export RUN, and give that"):
        load_pretrained(tmp_path / "3")


def test_an_unfinished_run_names_the_command(run):
    with pytest.raises(UserError, match=f"a run without export/.*rrft_jax.export {run}"):
        load_pretrained(run)


def test_a_checkpoint_that_is_not_whole_is_named(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "grpo" / "2" / "state" / "d")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "grpo" / "2" / "state" / "ocdbt.process_0")
    assert export.main([str(tmp_path / "run")]) == 1
    assert "grpo after step 2 is incomplete" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["stages"] == ["sft", "grpo"]
