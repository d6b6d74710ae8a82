"""What loading and saving a checkpoint of over 1 GiB takes: memory, and bytes read by each host."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from rrft_jax.hf import pretrained, weights
from rrft_jax.parallel.mesh import make_mesh
from tests.hf import measured
from tests.parallel.runs import ROOT, free_port

# A few tensors of the largest size, and what doesn't grow with a model: what is read ahead,
# compiled programs, what the heap keeps of the threads that read. The model is twice that.
SLACK = 3 * measured.LARGEST + 2**28 + 2**27


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("large")
    measured.write(path / "model")
    yield path / "model"
    shutil.rmtree(path)


def measure(folder, devices: int, number: int) -> list[dict[str, int]]:
    """What `number` processes say that it took each of them."""
    port, environment = free_port(), os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "tests.hf.measured", folder, str(devices)]
    processes = [
        subprocess.Popen(
            [*command, str(port), str(number), str(i)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(number)
    ]
    outputs = [one.communicate()[0] for one in processes]
    assert not any(one.returncode for one in processes)
    return [json.loads(output.splitlines()[-1]) for output in outputs]


@pytest.mark.slow
def test_memory_is_bounded_by_the_largest_tensor(folder):
    (found,) = measure(folder, devices=8, number=1)
    assert found["all"] > 2**30
    assert found["loading"] < found["held"] + SLACK
    assert found["saving"] < found["held"] + SLACK
    saved = folder.with_name("saved")
    assert measured.digests(saved) == measured.digests(folder)
    shutil.rmtree(saved)


@pytest.mark.slow
def test_each_of_two_hosts_reads_what_its_devices_hold_and_the_first_one_writes(folder):
    found = measure(folder, devices=1, number=2)
    for one in found:
        assert one["all"] / 2 <= one["held"] < 0.51 * one["all"]
        assert one["held"] <= one["read"] < 0.52 * one["all"]
        assert one["saving"] < one["held"] + SLACK
    saved = folder.with_name("saved")
    assert measured.digests(saved) == measured.digests(folder)
    shutil.rmtree(saved)


@pytest.mark.parametrize("axes", [{}, {"fsdp": 2, "tensor": 4}, {"data": 2, "fsdp": 4}])
def test_stacks_filled_layer_by_layer_are_those_stacked_on_the_host(
    checkpoint, tmp_path, monkeypatch, axes
):
    mesh = make_mesh(**axes) if axes else None
    _, expected = pretrained.load_pretrained(checkpoint("small"), mesh=mesh)
    monkeypatch.setattr(weights, "STACK", 0)
    model, params = pretrained.load_pretrained(checkpoint("small"), mesh=mesh)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
    pretrained.save_pretrained(tmp_path / "out", model, params)
    assert measured.digests(tmp_path / "out") == measured.digests(pathlib.Path(checkpoint("small")))


def test_ranges_that_touch_are_read_as_one():
    assert weights._joined([(4, 6), (0, 2), (2, 4), (8, 9), (8, 9)]) == ((0, 6), (8, 9))
