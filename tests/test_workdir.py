"""A run's folder is claimed by one config and one set of weights."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from rrft_jax import command, fields, workdir
from rrft_jax.errors import UserError
from rrft_jax.renamed import RENAMED
from rrft_jax.settings import Config, CustomSettings, GRPOSettings, ModelSettings, SFTSettings


def _config(seed=0):
    return Config(seed=seed, model=ModelSettings(path="m"))


def test_the_same_run_is_let_in_again_and_another_one_is_not(tmp_path):
    workdir.claim(_config(), tmp_path / "run", "abc")
    workdir.claim(_config(), tmp_path / "run", "abc")
    with pytest.raises(UserError, match="seed is 0 there and 1 here; give another --workdir"):
        workdir.claim(_config(1), tmp_path / "run", "abc")
    with pytest.raises(UserError, match="other weights: the checkpoint .* has changed since"):
        workdir.claim(_config(), tmp_path / "run", "xyz")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: can't hold a run"):
        workdir.claim(_config(), tmp_path / "file", "abc")


def test_a_run_of_the_release_before_goes_on_under_the_new_names(tmp_path):
    ones = {new.partition(".")[2]: 1 for new in RENAMED.values()}
    config = dataclasses.replace(_config(), grpo=GRPOSettings(**ones))
    workdir.claim(config, tmp_path / "run", "abc")
    file = tmp_path / "run" / "config.json"
    text = file.read_text()
    for old, new in RENAMED.items():
        text = text.replace(f'"{new.partition(".")[2]}"', f'"{old.partition(".")[2]}"')
    file.write_text(text)
    workdir.claim(config, tmp_path / "run", "abc")
    config = fields.replaced(config, {"grpo.epsilon_low": 2})
    with pytest.raises(UserError, match="grpo.epsilon_low is 1 there and 2 here"):
        workdir.claim(config, tmp_path / "run", "abc")


def _begun(folder, **fields):
    workdir.claim(Config(**fields), folder, "abc")
    return folder


def _saved(folder, **steps):
    for stage, step in steps.items():
        (workdir.stage_folder(folder, stage) / str(step)).mkdir(parents=True)
    return folder


OTHERS = {
    "model.remat": "dots",
    "model.attention": "xla",
    "data.max_skipped_share": 0.25,
    "mesh.data": 4,
    "mesh.show": True,
    "trackers": ("wandb",),
    "profile": "grpo@2:3",
}
FREE = [found for found in fields.every(Config) if found.free]


@pytest.mark.parametrize("found", FREE, ids=lambda found: found.key)
def test_a_run_goes_on_with_another_value_of_a_free_field(found, tmp_path, capfd):
    stages = dict(stages=("sft", "grpo"), sft=SFTSettings(steps=4), grpo=GRPOSettings(steps=4))
    folder = _begun(tmp_path / "run", **stages)
    old = fields.flat(fields.plain(Config(**stages)))[found.key]
    new = OTHERS[found.key] if found.key in OTHERS else old + 1
    changed = fields.replaced(Config(**stages), {found.key: new})
    workdir.claim(changed, folder, "abc")
    said = capfd.readouterr().err
    old, new = json.loads(json.dumps([old, new]))  # as config.json has them
    assert said.startswith(f"{folder} resumes with {found.key}={new} instead of {old}")
    assert said.count("\n") == 1 and found.free.consequence in said
    assert workdir.read_config(folder) == changed
    workdir.claim(changed, folder, "abc")
    assert capfd.readouterr().err == ""


def test_a_run_with_the_limit_of_the_release_before_goes_on_with_the_folder_s(tmp_path, capfd):
    workdir.claim(fields.replaced(Config(), {"data.min_pixels": 3136}), tmp_path / "run", "abc")
    workdir.claim(Config(), tmp_path / "run", "abc")
    assert "resumes with data.min_pixels=0 instead of 3136" in capfd.readouterr().err


def test_a_field_that_is_not_free_is_refused_beside_a_free_one(tmp_path):
    folder = _begun(tmp_path / "run")
    before = (folder / "config.json").read_text()
    with pytest.raises(UserError, match="data.buckets is 4 there and 5 here; give another --work"):
        changes = {"data.buckets": 5, "checkpoint_every": 7}
        workdir.claim(fields.replaced(Config(), changes), folder, "abc")
    assert (folder / "config.json").read_text() == before


def test_a_run_with_checkpoints_names_the_way_to_begin_there(tmp_path):
    folder = _saved(_begun(tmp_path / "run", stages=("sft",), sft=SFTSettings()), sft=7)
    with pytest.raises(UserError, match=f"with --branch_from={folder} to begin at a checkpoint"):
        workdir.claim(Config(stages=("sft",), sft=SFTSettings(b1=0.5)), folder, "abc")


@pytest.mark.parametrize("key, value", [("lora.rank", 32), ("model.adapter", "another")])
def test_another_adapter_is_no_reason_to_branch_which_would_be_refused(tmp_path, key, value):
    begun = fields.replaced(Config(stages=("sft",), sft=SFTSettings()), {"lora.rank": 64})
    folder = _saved(tmp_path / "run", sft=7)
    workdir.claim(begun, folder, "abc")
    with pytest.raises(UserError, match=f"{key} is .*; give another --workdir$"):
        workdir.claim(fields.replaced(begun, {key: value}), folder, "abc")


@pytest.mark.parametrize(
    "old, new, message",
    [
        ({"sft.steps": 4}, {"sft.steps": 3}, "can only grow: sft.steps is 4 there and 3 here"),
        ({"sft.steps": 4}, {"sft.steps": 0}, "can only grow: sft.steps is 4 there and 0 here"),
        ({"sft.steps": 0}, {"sft.steps": 4}, "can only grow: sft.steps is 0 there and 4 here"),
        ({"grpo.epochs": 2}, {"grpo.epochs": 1}, "can only grow: grpo.epochs is 2 there"),
        ({"sft.steps": 4}, {"sft.steps": 5}, "whose grpo has begun at the end of sft: sft.steps"),
    ],
)
def test_steps_can_only_grow_and_not_below_a_later_stage(old, new, message, tmp_path):
    config = Config(stages=("sft", "grpo"), sft=SFTSettings(), grpo=GRPOSettings())
    folder = tmp_path / "run"
    workdir.claim(fields.replaced(config, old), folder, "abc")
    _saved(folder, sft=4, grpo=2)
    with pytest.raises(UserError, match=message):
        workdir.claim(fields.replaced(config, new), folder, "abc")
    workdir.claim(fields.replaced(config, old), folder, "abc")


def test_a_field_that_an_older_release_did_not_have_counts_as_its_default(tmp_path):
    folder = _begun(tmp_path / "run")
    file = folder / "config.json"
    values = json.loads(file.read_text())
    del values["data"]["buckets"], values["seed"]
    file.write_text(json.dumps(values))
    workdir.claim(Config(), folder, "abc")
    with pytest.raises(UserError, match="data.buckets is 4 there and 5 here"):
        workdir.claim(fields.replaced(Config(), {"data.buckets": 5}), folder, "abc")


@pytest.mark.parametrize("content", ['{"model_type": "qwen2_vl"}', "[]"])
def test_a_folder_of_another_kind_is_not_taken(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="config.json: not the config of a run"):
        workdir.claim(Config(), tmp_path, "abc")


def test_a_fingerprint_is_that_of_the_weights_wherever_they_lie(tmp_path):
    weights = np.random.default_rng(0).bytes(5_000_000)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.safetensors").write_bytes(weights)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "notes.txt").write_text("not of the model")
    sizes = {"model.safetensors": len(weights)}
    found = workdir.fingerprint(tmp_path / "a", sizes)
    assert workdir.fingerprint(tmp_path / "b", sizes) == found
    trained = bytearray(weights)
    trained[1_000_000:2_000_000] = np.random.default_rng(1).bytes(1_000_000)
    (tmp_path / "b" / "model.safetensors").write_bytes(trained)
    assert workdir.fingerprint(tmp_path / "b", sizes) != found
    (tmp_path / "b" / "model.safetensors").write_bytes(weights + b"\0")
    assert workdir.fingerprint(tmp_path / "b", {"model.safetensors": len(weights) + 1}) != found


def test_json_is_written_whole(tmp_path):
    workdir.write_json(tmp_path / "a.json", {"name": "ä"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"name": "ä"}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_run_that_is_asked_in_other_words_is_said(tmp_path):
    run, folder = tmp_path / "run", tmp_path / "folder"
    custom = CustomSettings(instruction="Give a box.")
    theirs = dataclasses.replace(_config(), task="custom", custom=custom)
    workdir.claim(theirs, run, "abc")
    folder.mkdir()
    (folder / "config.json").write_text("{}")  # a checkpoint that is no run

    def said(path, **fields):
        model = ModelSettings(path=str(path))
        return workdir.other_words(dataclasses.replace(theirs, model=model, **fields))

    assert said(run) == said(run, seed=1) == said(run, paradigm="reason_rft_zero") == ""
    assert said(folder, task="visual_counting") == said("", task="visual_counting") == ""
    line = said(run, task="visual_counting", paradigm="zero_shot", custom=CustomSettings())
    for change in (
        "task=visual_counting instead of custom",
        "paradigm=zero_shot instead of reason_rft",
        f"custom.instruction={CustomSettings().instruction} instead of Give a box.",
    ):
        assert change in line
    assert line.startswith(f"warning: {run} was asked in other words than here: ")


def test_an_evaluation_says_the_words_in_which_its_run_was_trained_if_they_are_others(tmp_path):
    def read(name, *arguments):
        return command.parse([f"--config=configs/{name}", *arguments])[0]

    def said(name, *arguments):
        return workdir.other_words(read(name, f"--config.model.path={tmp_path}", *arguments))

    assert said("eval.py") == ""  # no folder of a run
    own = "--config.data.path=d"
    begun = read("grpo.py:task=custom", own)
    (tmp_path / "config.json").write_text(json.dumps(fields.plain(begun)))
    assert said("eval.py:task=custom", own) == ""
    line = said("eval.py")
    assert line.startswith(
        f"warning: {tmp_path} was asked in other words than here: "
        "task=visual_counting instead of custom;"
    )
    line = said("eval.py:task=custom", own, "--config.custom.instruction=Short.")
    assert "custom.instruction=Short. instead of " in line
    assert f"{begun.custom.instruction}; --config=FILE" in line
    assert "task=visual_counting instead of custom" in said("grpo.py")  # it trains on
