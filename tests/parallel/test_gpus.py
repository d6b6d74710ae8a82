"""Absent GPUs: their figures, their nodes, and one line where something is missing."""

import glob
import importlib.metadata
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from rrft_jax.errors import UserError
from rrft_jax.parallel import devices, gpus
from rrft_jax.parallel.devices import GIB, LIMITS, absent_devices, limits
from rrft_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize("name", gpus.GPUS)
def test_a_card_has_the_figures_of_its_maker(name):
    gpu = gpus.GPUS[name]
    assert LIMITS[gpu.kind].flops == gpu.flops and LIMITS[gpu.kind].between == gpu.network
    # Each core's tensor units finish a power of two of bfloat16 operations in a cycle, and the
    # peak is stated for a clock somewhat below the greatest.
    rate = {8: 2048, 9: 4096, 10: 8192}[gpu.capability // 10]
    assert 0.9 < gpu.flops / (gpu.cores * gpu.clock * 1e9 * rate) < 1.01
    text = gpus.target(gpu)
    assert f'"{gpu.kind}"' in text and f"core_count: {gpu.cores}\n" in text


@pytest.mark.parametrize(
    "topology, nodes, cards",
    [("h200:1", 1, 1), ("a100-40:8", 1, 8), ("H100:2x8", 2, 8), ("h100:3x4", 3, 4)]
    + [("gb200:2x4", 2, 4)],
)
def test_a_node_has_its_cards(gpu_plugin, topology, nodes, cards):
    found = absent_devices(topology)
    assert [device.process_index for device in found] == [i // cards for i in range(nodes * cards)]
    kind = gpus.GPUS[topology.partition(":")[0].lower()].kind
    assert {device.device_kind for device in found} == {kind}
    assert {device.platform for device in found} == {"gpu"}


def test_a_program_compiles_for_a_card_that_is_not_here(gpu_plugin):
    mesh = make_mesh(fsdp=8, devices=absent_devices("h200:8"))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    x = jax.ShapeDtypeStruct((1024, 256), jnp.bfloat16, sharding=rows)
    compiled = jax.jit(lambda x: x.sum(0)).lower(x).compile()
    assert "all-reduce" in compiled.as_text()
    assert compiled.memory_analysis().argument_size_in_bytes == 128 * 256 * 2


def test_a_compilation_needs_no_cuda_of_the_machine(gpu_plugin):
    """The extra installs the assembler of kernels, and the functions that they call."""
    program = (
        "import jax; from rrft_jax.parallel import devices;"
        "where = jax.sharding.SingleDeviceSharding(devices.absent_devices('h200:1')[0]);"
        "x = jax.ShapeDtypeStruct((4,), 'float32', sharding=where);"
        "print(len(jax.jit(jax.lax.tan).lower(x).compile().as_text()))"
    )
    toolkits = {os.path.realpath(path) for path in glob.glob("/usr/local/cuda*") + ["/opt/cuda"]}
    hide = [f"mount -t tmpfs none '{path}' || exit 77" for path in toolkits if os.path.isdir(path)]
    script = "; ".join([*hide, f"PATH=/nowhere exec '{sys.executable}' -c \"{program}\""])
    unshare = ["unshare", "--mount", "--map-root-user"] if hide else []
    command = [*unshare, "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"CUDA can't be hidden here: {done.stderr}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 0


def test_the_memory_of_an_absent_card_is_what_jax_would_take(gpu_plugin, monkeypatch):
    [card] = absent_devices("h200:1")
    for name in gpus.FRACTIONS:
        monkeypatch.delenv(name, raising=False)
    assert limits(card).memory == int(0.75 * 139.8 * GIB)
    for name in gpus.FRACTIONS:
        monkeypatch.setenv(name, "0.9")
        assert limits(card).memory == int(0.9 * 139.8 * GIB)
        monkeypatch.delenv(name)


@pytest.mark.skipif(
    any(map(os.path.exists, ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"))), reason="has a GPU"
)
def test_the_plugin_is_silent_where_there_is_no_gpu(gpu_plugin):
    left_out = ("JAX_PLATFORMS", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    environment = devices._NO_TPU_HERE | kept  # libtpu, which is also here, would look for a TPU
    program = "import rrft_jax, jax; print(jax.devices()[0].platform)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.stderr) == ("cpu\n", "")


@pytest.mark.parametrize(
    "told, message",
    [
        ({"XLA_CLIENT_MEM_FRACTION": "most"}, "=most: expected a share of the memory, such as 0.9"),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0"}, "=0: expected a share of the memory"),
        ({"XLA_CLIENT_MEM_FRACTION": "inf"}, "=inf: expected a share of the memory"),
        (dict.fromkeys(gpus.FRACTIONS, "0.9"), "are both set; unset XLA_PYTHON_CLIENT_MEM_FRACT"),
    ],
)
def test_a_share_that_cannot_be_is_one_line(monkeypatch, told, message):
    for name in gpus.FRACTIONS:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        gpus.memory_fraction()


@pytest.mark.parametrize(
    "topology, message",
    [
        ("h200", "expected CARD:GPUS or CARD:NODESxGPUS, such as h200:8"),
        ("h200:0", "expected CARD:GPUS"),
        ("h100:2x2x2", "expected CARD:GPUS"),
        ("h200:16", "at most 8 cards of h200; for several nodes write h200:2x8"),
        ("gb200:8", "at most 4 cards of gb200; for several nodes write gb200:2x4"),
        ("gb200:20x4", "expected at most 18 nodes, or a multiple of 18"),
        ("h200:1025x8", "expected at most 1024 nodes"),
        ("l4:1", "with a card of a100-40, a100-80, h100, h200, b200, gb200"),
    ],
)
def test_no_such_node_is_one_line(topology, message):
    with pytest.raises(UserError, match=message) as error:
        absent_devices(topology)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, found",
    [
        ("jax-cuda13-plugin", None),
        ("jax-cuda13-plugin", "0.9.9"),
        ("jax-cuda13-pjrt", "99.0.0"),
        ("nvidia-cuda-nvcc", None),
        ("nvidia-nvvm", None),
        ("nvidia-cudnn-cu13", None),
    ],
)
def test_an_absent_plugin_or_one_of_another_release_is_one_line(monkeypatch, name, found):
    def version(asked):
        if asked != name:
            return jax.__version__ if asked.startswith("jax-cuda") else "13.0"
        if found is None:
            raise importlib.metadata.PackageNotFoundError(asked)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(UserError, match=f"{name}.*; pip install 'rrft_jax\\[plan-gpu\\]'"):
        gpus.check_plugin()
