"""Folders come back byte for byte, and each way for one to be broken has its one line."""

import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from transformers import AutoModelForImageTextToText

from rrft_jax.errors import UserError
from rrft_jax.hf import pretrained
from rrft_jax.models import table
from rrft_jax.parallel.mesh import make_mesh
from tests import checkpoints, tiny

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def copy(checkpoint, tmp_path):
    """`copy(preset)`: a folder of one's own to break."""

    def make(preset: str = "small") -> pathlib.Path:
        return pathlib.Path(shutil.copytree(checkpoint(preset), tmp_path / preset))

    return make


def rewrite(folder: pathlib.Path, change) -> None:
    """Passes the tensors of a one-file folder through `change`."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def tensors(folder) -> dict[str, tuple]:
    """Name as it stands in the files -> (dtype, shape, bytes)."""
    result = {}
    for file in pathlib.Path(folder).glob("*.safetensors"):
        with safe_open(file, "numpy") as handle:
            for name in handle.keys():
                array = handle.get_tensor(name)
                result[name] = (str(array.dtype), array.shape, array.tobytes())
    return result


@pytest.mark.parametrize("preset", checkpoints.PRESETS)
@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 100_000])
def test_round_trip_is_exact(checkpoint, tmp_path, preset, max_shard_bytes):
    source = pathlib.Path(checkpoint(preset))
    model, params = pretrained.load_pretrained(source)
    out = tmp_path / "deep" / "out"
    pretrained.save_pretrained(out, model, params, max_shard_bytes=max_shard_bytes)

    assert tensors(out) == tensors(source)
    sharded = max_shard_bytes < 1_000_000
    assert (out / "model.safetensors.index.json").exists() == sharded
    assert (out / "model.safetensors").exists() != sharded
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja") and "index" not in file.name:
            same = json.loads if file.suffix == ".json" else str
            assert same((out / file.name).read_text()) == same(file.read_text()), file.name
    assert not list(out.parent.glob(".*"))  # nothing half-written stays

    load = AutoModelForImageTextToText.from_pretrained
    before, after = (load(folder, dtype="auto").state_dict() for folder in (source, out))
    assert before.keys() == after.keys()
    assert all(
        torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before
    )


def test_todays_names_are_read_too(copy, checkpoint):
    folder = copy()
    rewrite(
        folder, lambda old: {table.import_name(name, tiny.CONFIG): x for name, x in old.items()}
    )
    assert "model.visual.merger.ln_q.weight" in tensors(folder)
    _, params = pretrained.load_pretrained(folder)
    _, expected = pretrained.load_pretrained(checkpoint("small"))
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_dtypes(checkpoint, tmp_path):
    model, params = pretrained.load_pretrained(checkpoint("wide"))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    assert model.dtype == jnp.bfloat16
    model, params = pretrained.load_pretrained(
        checkpoint("wide"), jnp.float32, compute_dtype="bfloat16"
    )
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert model.dtype == jnp.bfloat16

    pretrained.save_pretrained(tmp_path / "out", model, params)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    before = json.loads((pathlib.Path(checkpoint("wide")) / "config.json").read_text())
    assert config["dtype"] == "float32" and before["dtype"] == "bfloat16"
    assert {k: v for k, v in config.items() if k != "dtype" and "_config" not in k} == {
        k: v for k, v in before.items() if k != "dtype" and "_config" not in k
    }


def test_float16_files(copy):
    folder = copy()
    rewrite(folder, lambda old: {name: x.astype(np.float16) for name, x in old.items()})
    before = tensors(folder)
    model, params = pretrained.load_pretrained(folder)
    pretrained.save_pretrained(folder, model, params)  # over itself
    assert tensors(folder) == before


def test_a_file_of_two_dtypes_comes_back_as_it_was(copy, tmp_path):
    folder = copy()
    rewrite(folder, lambda old: {n: x.astype(np.float16) for n, x in old.items()})
    rewrite(folder, lambda old: {n: x.astype("f4") if "norm" in n else x for n, x in old.items()})
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    model, params = pretrained.load_pretrained(folder)
    pretrained.save_pretrained(tmp_path / "out", model, params)
    assert tensors(tmp_path / "out") == tensors(folder)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


def test_a_save_replaces_the_weights_of_an_earlier_one(checkpoint, tmp_path):
    model, params = pretrained.load_pretrained(checkpoint("odd"))
    (tmp_path / "notes.txt").write_text("mine")
    pretrained.save_pretrained(tmp_path, model, params, max_shard_bytes=100_000)
    pretrained.save_pretrained(tmp_path, model, params)
    assert [f.name for f in tmp_path.glob("model*")] == ["model.safetensors"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_placed_on_a_mesh_and_saved_from_it(checkpoint, tmp_path):
    mesh = make_mesh(fsdp=2, tensor=4)
    model, params = pretrained.load_pretrained(checkpoint("small"), mesh=mesh)
    up = params["language"]["layers"]["up"]["kernel"]
    assert up.addressable_shards[0].data.shape == (2, 64 // 2, 128 // 4)
    pretrained.save_pretrained(tmp_path / "out", model, params)
    assert tensors(tmp_path / "out") == tensors(checkpoint("small"))


def test_copies_of_a_folder_share_their_programs_and_keep_their_files(checkpoint, tmp_path):
    traced = []

    @functools.partial(jax.jit, static_argnames="model")
    def logits(model, params, hidden):
        traced.append(model)
        return model.logits(params, hidden)

    for name in ("one", "two"):
        folder = pathlib.Path(shutil.copytree(checkpoint("small"), tmp_path / name))

        (folder / "chat_template.jinja").write_text(name)
        model, params = pretrained.load_pretrained(folder)
        logits(model, params, jnp.ones(model.config.text.width))
        pretrained.save_pretrained(tmp_path / "out", model, params)
        assert (tmp_path / "out" / "chat_template.jinja").read_text() == name
    assert len(traced) == 1


def test_tied_files_may_repeat_the_embedding_as_head_but_not_differ(copy):
    folder = copy()
    rewrite(folder, lambda old: {**old, HEAD: old[EMBEDDING].copy()})
    _, params = pretrained.load_pretrained(folder)
    assert "head" not in params["language"]
    rewrite(folder, lambda old: {**old, HEAD: old[EMBEDDING] + 1})
    with pytest.raises(UserError, match="differs from the embedding"):
        pretrained.load_pretrained(folder)


def test_stop_tokens(copy):
    folder = copy()
    assert pretrained.stop_tokens(folder) == (2, 0)
    (folder / "generation_config.json").unlink()
    assert pretrained.stop_tokens(folder) == (2,)  # config.json's
    (folder / "config.json").write_text("{}")
    assert pretrained.stop_tokens(folder) == ()


def _llama(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')


def _only_bin(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-100])


def _wrong_shape(folder):
    rewrite(folder, lambda old: {**old, "model.norm.weight": np.zeros(3, np.float32)})


def _integers(folder):
    rewrite(folder, lambda old: {**old, "model.norm.weight": np.zeros(64, np.int8)})


def _unknown(folder):
    rewrite(folder, lambda old: {**old, "model.layers.7.extra": np.zeros(3, np.float32)})


def _missing(folder):
    name = "model.layers.1.self_attn.q_proj.bias"
    rewrite(folder, lambda old: {k: v for k, v in old.items() if k != name})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("")), "not a folder"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: no such file"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json: not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "expected a JSON object"),
        (_llama, "expected 'qwen2_vl'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors"),
        (_only_bin, "pytorch_model.bin is not read"),
        (_truncated, r"model\.safetensors: incomplete or no safetensors file"),
        (_wrong_shape, r"model\.norm\.weight has shape \(3,\), but config.json says \(64,\)"),
        (_integers, "stored as I8"),
        (_unknown, r"weight model\.layers\.7\.extra: config.json describes no such"),
        (_missing, r"layers\.1\.self_attn\.q_proj\.bias, but no safetensors"),
    ],
)
def test_a_broken_folder_ends_in_one_line(copy, damage, message):
    folder = copy()
    damage(folder)
    with pytest.raises(UserError, match=message) as error:
        pretrained.load_pretrained(folder)
    assert "\n" not in str(error.value)
    assert "small" in str(error.value)  # which folder


def test_a_shard_that_the_index_names_must_be_there(copy):
    folder = copy("odd")
    shard = sorted(folder.glob("model-00002-*"))[0]
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}: no such file"):
        pretrained.load_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="weight_map"):
        pretrained.load_pretrained(folder)


def test_saving_wants_a_folder_and_a_source(checkpoint, tmp_path):
    model, params = pretrained.load_pretrained(checkpoint("small"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        pretrained.save_pretrained(tmp_path / "file", model, params)
    homeless = type(model)(model.config)
    with pytest.raises(UserError, match="source"):
        pretrained.save_pretrained(tmp_path / "out", homeless, params)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("preset", ["small", "wide"])  # float32; bfloat16, in several files
def test_a_weight_that_is_no_finite_number_is_refused_by_name(checkpoint, copy, preset, value):
    name = "model.layers.1.mlp.down_proj.weight"
    folder = copy(preset)
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as handle:
            found = {key: handle.get_tensor(key) for key in handle.keys()}
        if name in found:
            found[name][-1, -1] = float(value)
            save_torch(found, file, metadata={"format": "pt"})
    for mesh in (None, make_mesh(fsdp=2, tensor=2)):
        with pytest.raises(UserError, match=rf"weight {name} holds NaN or infinity"):
            pretrained.load_pretrained(folder, mesh=mesh)
