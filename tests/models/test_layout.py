"""A mesh that doesn't fit the model is one line; one that does is a short table."""

import dataclasses

import pytest

from rrft_jax.errors import UserError
from rrft_jax.models import layout
from rrft_jax.models.families import RELEASED
from rrft_jax.parallel.mesh import make_mesh
from tests import tiny


def with_text(**sizes):
    return dataclasses.replace(tiny.CONFIG, text=dataclasses.replace(tiny.CONFIG.text, **sizes))


@pytest.mark.parametrize(
    "config, axes, message",
    [
        (tiny.CONFIG, {"tensor": 8}, "tensor=8: the decoder's heads 4 .* works .*: 4"),
        (with_text(kv_heads=3, heads=6), {"tensor": 2}, "the decoder's key/value heads 3 .*: 1"),
        (with_text(mlp_width=50), {"tensor": 4}, "tensor=4: the decoder's MLP 50 .*: 2"),
        (tiny.CONFIG, {"fsdp": 3}, "fsdp=3: the decoder's width 32 .* works .*: 2"),
        (RELEASED["2b"], {"tensor": 8}, "the decoder's heads 12 .*: 4"),
        (RELEASED["7b"], {"tensor": 8}, "the decoder's heads 28 .*: 4"),
        (RELEASED["qwen2_5_vl_3b"], {"tensor": 8}, "the vision tower's MLP 3420 .*: 4"),
    ],
)
def test_sizes_that_do_not_divide_are_named(config, axes, message):
    with pytest.raises(UserError, match=message):
        layout.check(config, make_mesh(**axes))


@pytest.mark.parametrize("axes", [{}, {"fsdp": 8}, {"tensor": 4}, {"fsdp": 2, "tensor": 4}])
def test_released_and_tiny_models_fit_the_usual_meshes(axes):
    mesh = make_mesh(**axes)
    # The vocabulary may be left whole.
    for config in (*RELEASED.values(), tiny.CONFIG, with_text(vocab_size=63)):
        layout.check(config, mesh)
        lines = {line.split()[0]: line for line in layout.summary(config, mesh)}
        assert not [line for letter, line in lines.items() if letter in "DHF" and "whole" in line]


def test_the_table_says_what_lies_where():
    assert list(layout.summary(tiny.CONFIG, make_mesh())) == [
        "mesh: data 1 x fsdp 1 x tensor 1, 1 device, 1 process"
    ]
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    text = "\n".join(layout.summary(with_text(vocab_size=63), mesh))
    assert text.startswith("mesh: data 2 x fsdp 2 x tensor 2, 8 devices, 1 process\n")
    for line in (
        "B  batch                   data x fsdp  1/4 of its rows",
        "D  widths of the residuals  fsdp         32, 16 -> 16, 8",
        "V  vocabulary               tensor       63 -> 63 (63 is no multiple of 2: whole)",
    ):
        assert " ".join(line.split()) in " ".join(text.split())


def test_every_parameter_is_shown():
    mesh = make_mesh(fsdp=2, tensor=4)
    lines = list(layout.every_parameter(tiny.CONFIG, mesh))
    assert any(
        line.split()
        == "language/layers/q/kernel LDH 2 x 32 x 32 -> 2 x 16 x 8 (-, fsdp, tensor)".split()
        for line in lines
    )
    assert len(lines) == len({line.split()[0] for line in lines}) > 30
