"""A run stands for a checkpoint; what is no checkpoint is called what it is, in one line."""

import json
import os
import pathlib
import shutil

import pytest
from transformers import AutoConfig

from rrft_jax.assets import TINY
from rrft_jax.data import Processor
from rrft_jax.errors import UserError
from rrft_jax.hf import kinds, load_pretrained
from rrft_jax.hf.pretrained import read_config
from rrft_jax.models import families

WEIGHTS = "model.safetensors"
SIZE = (TINY / WEIGHTS).stat().st_size
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 3025520\n"
)


@pytest.fixture
def folder(tmp_path):
    return pathlib.Path(shutil.copytree(TINY, tmp_path / "model"))


def refused(path, *parts: str) -> None:
    """The loader says what it is."""
    with pytest.raises(UserError) as error:
        load_pretrained(path)
    assert "\n" not in str(error.value)
    for part in (str(path), *parts):
        assert part in str(error.value)


def a_run(folder: pathlib.Path, **settings) -> pathlib.Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_a_run_means_its_export(tmp_path):
    run = a_run(tmp_path / "run", stages=["sft"])
    for load in (load_pretrained, Processor.from_pretrained):
        with pytest.raises(UserError, match="run: a run without export/.*rrft_jax.export"):
            load(run)
    shutil.copytree(TINY, run / "export")
    assert kinds.checkpoint(run) == str(run / "export")
    model, _ = load_pretrained(run)
    assert model.source == str(run / "export")
    assert Processor.from_pretrained(run).stop_tokens


def test_a_run_that_trained_nothing_means_the_model_that_it_evaluated(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(TINY, tmp_path / "m")
    assert kinds.checkpoint(a_run(tmp_path / "a", stages=[], model={"path": ""})) == TINY
    a_run(tmp_path / "b", stages=[], model={"path": str(tmp_path / "m")})
    assert kinds.checkpoint("~/b") == tmp_path / "m"
    c = a_run(tmp_path / "c", stages=[], model={"path": str(tmp_path / "b")})
    assert kinds.checkpoint(c) == tmp_path / "m"


@pytest.mark.parametrize("content", ['{"model_type": "qwen2_vl"}', "[]", "{", None])
def test_any_other_folder_means_itself(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert kinds.checkpoint(tmp_path) == tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen2-VL-2B-Instruct",
        "hf://Qwen/Qwen2-VL-2B-Instruct",
        "https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct",
        "https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct/tree/main",
    ],
)
def test_a_name_on_the_hub_is_to_be_downloaded(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = "hf download Qwen/Qwen2-VL-2B-Instruct --local-dir Qwen2-VL-2B-Instruct"
    refused(name, "no such folder", command)


def test_a_missing_folder_is_named_with_the_command_that_downloads_one(tmp_path):
    for load in (load_pretrained, Processor.from_pretrained):
        with pytest.raises(UserError, match="no/such: no such folder; .* hf download Qwen/"):
            load(tmp_path / "no/such")


def test_a_folder_with_such_a_name_is_that_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TINY, "Qwen/Qwen2-VL-2B-Instruct")
    assert read_config("Qwen/Qwen2-VL-2B-Instruct") == read_config(TINY)


def test_a_cache_of_the_hub_names_the_snapshot(tmp_path):
    shutil.copytree(TINY, tmp_path / "snapshots" / "abc")
    refused(tmp_path, "config.json: no such file", "such as", "snapshots/abc")


@pytest.mark.parametrize("whole", [False, True])
def test_an_adapter_is_no_whole_model(folder, whole):
    settings = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    if not whole:
        (folder / "config.json").unlink()
    refused(
        folder,
        "a LORA adapter",
        "set model.path to its base, Qwen/Qwen2-VL-2B-Instruct, and",
        "--adapter=",
    )


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"quantization_config": {"load_in_4bit": True}}, "unknown method"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantization: of an unknown method"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ],
)
def test_quantised_weights_are_not_trained(folder, settings, method):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    refused(folder, f"{folder}/config.json: the weights are quantized", method, "bfloat16")
    with pytest.raises(UserError) as error:
        read_config(folder)
    assert str(error.value).startswith(f"{folder}/config.json: the weights")  # nothing around it


OTHERS = {
    "qwen3_5": "(not supported: gated delta nets)",
    "qwen3_5_moe": "(not supported: a mixture of experts, gated delta nets)",
    "qwen3_vl_moe": "(not supported: a mixture of experts)",
    "qwen2_moe": "(not supported: a mixture of experts)",
    "qwen2_5_omni": "(not supported: sound and speech)",
    "qwen2": "(this one reads no pictures)",
    "qwen3": "(this one reads no pictures)",
    "gemma3": "checkpoint",
    "internvl": "checkpoint",
    "llava": "checkpoint",
    "glm4v": "checkpoint",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_another_family_has_is_said_in_one_line(tmp_path, kind):
    raw = AutoConfig.for_model(kind).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(raw, default=str))
    for load in (load_pretrained, Processor.from_pretrained):
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(UserError) as error:
            load(tmp_path)
        said = str(error.value)
        assert f"model_type is {kind!r}, expected 'qwen2_vl'" in said and "\n" not in said
        assert all(repr(family) in said for family in families.FAMILIES)
        assert families.TITLES in said and said.endswith(OTHERS[kind])


@pytest.mark.parametrize("kind", ["qwen2_5_omni", "qwen3_5", "llava", None])
def test_another_family_is_named(folder, kind):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    refused(folder, f"model_type is {kind!r}, expected 'qwen2_vl'", "'qwen2_5_vl'")


@pytest.mark.parametrize("size", [0, 5, 8, 100, 20_000, SIZE - 1, SIZE + 1])
def test_a_torn_file_is_named_with_the_size_that_it_has(folder, size):
    os.truncate(folder / WEIGHTS, size)
    promised = f"its header promises {SIZE:,}" if size > 15_000 else "no whole header"
    refused(folder, WEIGHTS, f"it has {size:,} bytes", promised, "download it again")


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_pointer_of_git_lfs_is_called_that(folder, name):
    (folder / name).write_text(POINTER)
    refused(folder, name, "pointer of git-lfs", "3,025,520 bytes", "git lfs pull")


def test_a_model_of_llama_cpp_is_called_that(tmp_path):
    (tmp_path / "qwen2-vl-q4_k_m.gguf").write_bytes(b"GGUF")
    refused(tmp_path, "qwen2-vl-q4_k_m.gguf is a model for llama.cpp (GGUF)", "safetensors")


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ([], ["download the folder's weights"]),
        (["training_args.bin", "optimizer.pt", "rng_state_0.pth"], ["download the folder's"]),
        (["training_args.bin", "pytorch_model.bin"], ["pytorch_model.bin is not read", "convert"]),
        (["pytorch_model-00001-of-00002.bin"], ["pytorch_model-00001-of-00002.bin is not read"]),
        (["qwen2-vl-q4_k_m.gguf"], ["qwen2-vl-q4_k_m.gguf is not read", "only safetensors are"]),
        (["model-00001-of-00002.safetensors"], ["without model.safetensors.index.json"]),
    ],
)
def test_weights_of_another_kind_are_named(folder, names, parts):
    (folder / WEIGHTS).unlink()
    for name in names:
        (folder / name).write_bytes(b"0")
    refused(folder, "neither model.safetensors nor model.safetensors.index.json is there", *parts)
