"""The plan of a shallow model for absent GPUs, as the command tells it."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import pytest

from rrft_jax.models import attention
from rrft_jax.models.families import RELEASED
from rrft_jax.parallel import gpus
from rrft_jax.parallel.devices import GIB, absent_devices
from rrft_jax.plan import __main__ as command
from rrft_jax.plan import hlo, libraries, programs
from tests import tiny


@pytest.fixture
def shallow(monkeypatch):
    """Heads of 8, which cuDNN takes; one layer."""
    vision = dataclasses.replace(tiny.CONFIG.vision, width=32, depth=1)
    text = dataclasses.replace(tiny.CONFIG.text, depth=1)
    model = dataclasses.replace(tiny.CONFIG, vision=vision, text=text)
    monkeypatch.setitem(RELEASED, "tiny", model)
    for name in gpus.FRACTIONS:
        monkeypatch.delenv(name, raising=False)


def test_two_nodes_of_gpus_have_a_plan(gpu_plugin, shallow, capsys):
    argv = ["--config=configs/sft.py", "--config.sft.batch_size=4", "--config.sft.micro_batches=1"]
    argv += ["--config.model.compute_dtype=bfloat16", "--config.model.remat=none"]
    argv += ["--prompt-tokens=36", "--patches=16", "--target-tokens=16"]
    argv += ["--config.mesh.data=2", "--topology=h100:2x1", "--json"]
    assert command.main(argv) == 0
    out, err = capsys.readouterr()
    plan, gpu = json.loads(out), gpus.GPUS["h100"]
    assert "compiling sft" in err.splitlines()
    assert (plan["devices"], plan["device"], plan["fits"]) == (2, gpu.kind, True)
    assert plan["capacity"] == int(0.75 * gpu.memory * GIB)
    assert plan["beside"]["left"] == gpu.memory * GIB - plan["capacity"]
    [part] = plan["programs"].values()
    assert part["estimated"][libraries.CUDNN] > 0 and part["flops"] > 0
    memory = part["memory"]
    stated = memory["arguments"] + memory["outputs"] + memory["temporaries"]
    extra = sum(part["held"].values()) + part["estimated"][libraries.CUDNN]
    assert part["needed"] == stated + extra
    # Two nodes of one GPU: all that is sent goes from one to the other.
    assert part["bytes_between"] == part["bytes_sent"] > 0
    assert part["seconds_at_least"]["between nodes"] == part["bytes_sent"] / gpu.network
    assert any("between nodes a GPU is taken to send 50 GB" in line for line in plan["verdict"])


def test_a_product_without_tiles_of_triton_compiles_too(gpu_plugin):
    """XLA takes one tiling without a GPU, and JAX 0.10's can't be that of this gradient."""
    where = jax.sharding.SingleDeviceSharding(absent_devices("h200:1")[0])
    array = functools.partial(jax.ShapeDtypeStruct, sharding=where)

    @jax.jit
    @jax.grad
    def gradient(x, weights, segments):
        q, k, v = jnp.split((x @ weights).reshape(4, 512, 12, 24), 3, axis=2)
        return jnp.sum(attention.segment(q, k, v, segments, attention.PLAIN) ** 2)

    arrays = array((4, 512, 96), "float32"), array((96, 288), "float32"), array((4, 512), "int32")
    lowered = gradient.lower(*arrays)
    text = programs.Program("gradient", lambda: lowered, {}, {}).compiled.as_text()
    cost = hlo.cost(text)
    assert cost.flops > 2 * 2 * 2048 * 96 * 288 and not cost.unknown  # more than two projections


def test_what_xla_cannot_compile_is_one_line(monkeypatch, capsys):
    def compiled(program):
        raise jax.errors.JaxRuntimeError("INTERNAL: no tiles\n  for this\n" + 99 * "x")

    monkeypatch.setattr(programs.Program, "compiled", property(compiled))
    assert command.main(["--config=configs/sft.py"]) == 1
    [line] = capsys.readouterr().err.splitlines()[1:]
    assert line.startswith("error: XLA can't compile sft for a cpu (INTERNAL: no tiles); try other")


def test_the_search_looks_among_gpus(gpu_plugin, capsys):
    argv = ["--config=configs/grpo.py:model=7b", "--topology=a100-40:2", "--search"]
    assert command.main(argv) == 1
    out, err = capsys.readouterr()
    assert not out and "--search: nothing fits 2 devices of 29.5 GiB: " in err
    assert err.endswith("; take more GPUs\n") and err.count("\n") == 1
