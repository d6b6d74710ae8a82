"""A run's folder is claimed by one config and one set of weights."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from rrft_jax import fields, workdir
from rrft_jax.errors import UserError
from rrft_jax.renamed import RENAMED
from rrft_jax.settings import Config, GRPOSettings, ModelSettings


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
