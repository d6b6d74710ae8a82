"""A run that trains an adapter: its checkpoints, its resumption, its export, what it refuses."""

import dataclasses
import json
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax import branch, command, export, fields, main, prepare
from rrft_jax.assets import TINY
from rrft_jax.errors import UserError
from rrft_jax.hf import adapters, load_pretrained
from rrft_jax.hf.pretrained import read_config as read_sizes
from rrft_jax.models import adapter, table
from rrft_jax.settings import Config, LoRASettings, make
from rrft_jax.training import tuning
from rrft_jax.training.checkpoints import Checkpoints
from rrft_jax.workdir import read_config, stage_folder
from tests.test_recipe import ROOT, SHORT, numbers

SETTINGS = [
    f"--config={ROOT}/configs/grpo.py:tuning=lora",
    *SHORT,
    "--config.lora.rank=4",
    "--config.lora.targets=language/layers/(q|down)|vision/merger/fc1",
    "--config.lora.dropout=0.25",
    "--config.sft.steps=2",
    "--config.sft.batch_size=4",
    "--config.grpo.num_generations=2",
    "--config.grpo.entropy_bonus=0.1",  # its gradient is not 0, whatever the rewards
    "--config.sampling.max_new_tokens=16",
    "--config.eval.splits=id",
    "--config.eval.samples=4",
    "--config.eval.batch_size=4",
    "--config.checkpoint_every=1",
]
TARGETS = ("vision/merger/fc1", "language/layers/q", "language/layers/down")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    assert main.main([*SETTINGS, f"--workdir={workdir}"]) == 0
    return workdir


def test_checkpoints_hold_the_adapter_alone_and_the_stages_share_it(finished):
    config = read_config(finished)
    model, _ = load_pretrained(TINY)
    form = tuning.lora(config.lora, model.config)
    assert form.targets == TARGETS and form.scale == 64 / 4
    size = sum(np.prod(s) for s in table.flatten(adapter.shapes(model.config, form)).values())
    for stage in ("sft", "grpo"):
        files = stage_folder(finished, stage).joinpath("2").rglob("*")
        # Weights and two moments in float32.
        assert sum(file.stat().st_size for file in files if file.is_file()) < 1.3 * 12 * size + 1e5
    rows = numbers(finished)
    kl = [row["kl"] for row in rows if row["stage"] == "grpo"]
    assert kl[0] == 0 < kl[1]


def test_the_export_is_the_folders_weights_with_the_product_added(finished, tmp_path, capsys):
    model, base = load_pretrained(TINY, np.float32)
    form = tuning.lora(read_config(finished).lora, model.config)
    shapes = tuning.trained_shapes(dataclasses.replace(model, lora=form))
    zeros = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda x: isinstance(x, tuple))
    checkpoints = Checkpoints(stage_folder(finished, "grpo"))
    own = checkpoints.restore_params(2, zeros)
    checkpoints.close()
    _, exported = load_pretrained(finished / "export", np.float32)
    exported, base = table.flatten(exported), table.flatten(base)
    pairs = adapter.pairs(own["adapter"])
    assert exported.keys() == base.keys() and len(pairs) == 3
    for path, got in exported.items():
        want = np.asarray(base[path], np.float64)
        if (pair := pairs.get(path.removesuffix("/kernel"))) is not None:
            change = form.scale * np.einsum("...ir,...ro->...io", *map(np.float64, pair))
            assert np.abs(change).max() > 1e-4
            want = want + change
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6, err_msg=path)
    assert export.main([str(finished), f"--out={tmp_path}/out"]) == 0
    assert f"export: {tmp_path}/out and {tmp_path}/out-adapter (" in capsys.readouterr().out
    for folder, again in (("export", "out"), ("export-adapter", "out-adapter")):
        for file in (finished / folder).iterdir():
            assert file.read_bytes() == (tmp_path / again / file.name).read_bytes(), file.name
    _, merged = load_pretrained(TINY, np.float32, adapter=finished)
    for path, got in table.flatten(merged).items():
        np.testing.assert_allclose(got, exported[path], rtol=0, atol=1e-6, err_msg=path)


def test_training_goes_on_in_the_adapter_of_a_run(finished, tmp_path, capsys):
    arguments = [*SETTINGS, f"--config.model.adapter={finished}", f"--workdir={tmp_path}/run"]
    prepared = prepare.prepare(*command.parse(arguments))
    assert "maps; training goes on in it" in capsys.readouterr().err
    lora, arrays = adapters.read(finished / "export-adapter", prepared.model.config)
    assert dataclasses.replace(lora, dropout=0.25) == prepared.model.lora
    own = table.flatten(prepared.params["adapter"])
    assert own.keys() == arrays.keys()
    for path, array in arrays.items():
        np.testing.assert_array_equal(own[path], array, err_msg=path)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("first", "the run started from {}/first-adapter"),
        ("first-adapter", "the run started from {}/first-adapter"),
        ("other", "this folder holds a PEFT adapter"),
    ],
)
def test_an_export_is_written_over_no_adapter(out, message, finished, tmp_path, capsys):
    for name in ("first-adapter", "other"):
        shutil.copytree(finished / "export-adapter", tmp_path / name)
    run = shutil.copytree(finished, tmp_path / "run")
    written = json.loads((run / "config.json").read_text())
    written["model"]["adapter"] = str(tmp_path / "first-adapter")
    model = dataclasses.replace(read_config(run).model, adapter=written["model"]["adapter"])
    written["weights"] = prepare.weights_of(model)
    (run / "config.json").write_text(json.dumps(written))
    assert export.main([str(run), f"--out={tmp_path / out}"]) == 1
    assert f"--out={tmp_path / out}: {message.format(tmp_path)}" in capsys.readouterr().err


def test_an_export_to_the_current_folder_has_its_adapter_beside_it(finished, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export.main([str(finished), "--out=."]) == 0
    for name in ("here/model.safetensors", "here-adapter/adapter_model.safetensors"):
        assert (tmp_path / name).exists()


def test_an_adapter_of_another_form_says_which_arguments_train_it(finished, tmp_path):
    adapter = f"--config.model.adapter={finished}"
    other = [arguments for arguments in SETTINGS if "lora.rank" not in arguments]
    other += ["--config.lora.targets=decoder", adapter, f"--workdir={tmp_path}/run"]
    with pytest.raises(UserError, match="an adapter of another form than --config.lora") as error:
        prepare.prepare(*command.parse(other))
    told = [word for word in shlex.split(str(error.value)) if word.startswith("--config.lora.")]
    config, _ = command.parse([*other, *(word.rstrip(";") for word in told)])
    sizes, _ = read_sizes(TINY)
    assert "training goes on in it" in tuning.check(config, sizes)
    assert "merged into the weights" in tuning.check(
        dataclasses.replace(config, lora=LoRASettings()), sizes
    )


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_stopped_run_comes_to_the_same(stage, finished, tmp_path, capfd):
    again = tmp_path / "again"
    shutil.copytree(finished, again)
    shutil.rmtree(stage_folder(again, stage) / "2")
    if stage == "sft":
        shutil.rmtree(stage_folder(again, "grpo"))
    assert main.main([*SETTINGS, f"--workdir={again}"]) == 0
    assert f"{stage}: resumes after step 1 of 2" in capfd.readouterr().err
    assert numbers(again) == numbers(finished)
    for name in ("predictions-id.jsonl", "export/model.safetensors"):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name


@pytest.mark.parametrize("change", [{"lora.rank": 8}, {"lora.alpha": 1.0}, {"lora.rank": 0}])
def test_another_adapter_begins_no_branch(change, finished):
    config = fields.replaced(read_config(finished), change)
    weights = json.loads((finished / "config.json").read_text())["weights"]
    with pytest.raises(UserError, match=r"lora\.\w+ is .* the checkpoint is that run's adapter"):
        branch.find(f"{finished}:sft@1", config, weights)


def test_an_old_run_has_no_adapter():
    values = fields.plain(Config())
    del values["lora"]
    assert make(values).lora == LoRASettings()
