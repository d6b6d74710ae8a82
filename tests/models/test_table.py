"""The table agrees with the model, with transformers, and with itself in both directions."""

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from transformers import AutoModelForImageTextToText

from rrft_jax.hf import pretrained
from rrft_jax.models import table
from rrft_jax.models.vlm import VLM
from rrft_jax.parallel.mesh import make_mesh
from tests import tiny

PRESETS = ["small", "odd", "untied", "windows", "halls", "deep", "shafts"]


@pytest.fixture(scope="module", params=PRESETS)
def folder(request, checkpoint):
    return checkpoint(request.param)


def test_shapes_are_those_of_the_model(folder):
    config, _ = pretrained.read_config(folder)
    initial = jax.eval_shape(VLM(config).init, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, initial) == table.parameter_shapes(config)


def test_names_and_shapes_are_those_of_transformers(folder):
    config, _ = pretrained.read_config(folder)
    ours = {
        name: table.hf_shape(entry, config)
        for entry in table.entries(config)
        for name in table.names(entry, config)
    }
    model = AutoModelForImageTextToText.from_pretrained(folder)
    theirs = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert ours == theirs


def test_either_spelling_of_a_name():
    config = tiny.CONFIG
    for entry in config.table.entries:
        released = table.export_name(entry.name, config)
        assert table.import_name(released, config) == entry.name
        assert table.import_name(entry.name, config) == entry.name
    for today, released in {
        "model.visual.merger.ln_q.bias": "visual.merger.ln_q.bias",
        "model.language_model.norm.weight": "model.norm.weight",
    }.items():
        assert table.export_name(today, config) == released


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_turning_there_and_back_changes_no_bit(checkpoint, dtype):
    config, _ = pretrained.read_config(checkpoint("odd"))
    random = np.random.default_rng(0)
    for entry in table.entries(config):
        array = random.normal(size=table.hf_shape(entry, config)).astype(dtype)
        ours = table.from_hf(entry, array)
        assert ours.shape == table.shape(entry, config)[entry.stacked :]
        back = table.to_hf(entry, ours, config)
        assert back.dtype == dtype
        assert back.tobytes() == array.tobytes()


def test_every_axis_has_a_letter_and_large_kernels_are_split_both_ways(folder):
    config, _ = pretrained.read_config(folder)
    axes = table.flatten(table.parameter_axes(config))
    shapes = table.flatten(table.parameter_shapes(config))
    assert {k: len(v) for k, v in axes.items()} == {k: len(v) for k, v in shapes.items()}

    shardings = table.parameter_shardings(config, make_mesh(fsdp=2, tensor=2))
    language = shardings["language"]
    assert language["layers"]["gate"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert language["layers"]["down"]["kernel"].spec == PartitionSpec(None, "tensor", "fsdp")
    assert language["layers"]["input_norm"]["scale"].spec == PartitionSpec(None, None)
    assert shardings["vision"]["blocks"]["qkv"]["kernel"].spec == PartitionSpec(
        None, "fsdp", "tensor"
    )
    assert shardings["vision"]["blocks"]["qkv"]["bias"].spec == PartitionSpec(None, "tensor")
    assert shardings["vision"]["blocks"]["proj"]["bias"].spec == PartitionSpec(None, None)
