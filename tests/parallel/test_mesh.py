"""The mesh: the sizes asked for, in the order of the machine; or one line that says why not."""

import types

import numpy as np
import pytest
from jax.experimental import topologies

from rrft_jax.errors import UserError
from rrft_jax.parallel.devices import absent_devices, slice_devices
from rrft_jax.parallel.mesh import batch_shards, make_mesh, nearest


def test_one_device_is_the_default():
    assert dict(make_mesh().shape) == {"data": 1, "fsdp": 1, "tensor": 1}


def test_minus_one_takes_the_devices_that_are_left():
    mesh = make_mesh(data=-1, tensor=2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 1, "tensor": 2}
    assert batch_shards(mesh) == 4
    assert make_mesh(fsdp=-1).shape["fsdp"] == make_mesh(tensor=-1).shape["tensor"] == 8


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"data": 16}, "needs 16 devices"),
        ({"data": -1, "fsdp": 3}, "8 devices are not a multiple of 3; 2 or 4 would divide them"),
        ({"data": -1, "fsdp": -1}, "at most one -1.*--config.mesh.data=1"),
        ({"tensor": 0}, "sizes of 1 or more"),
    ],
)
def test_sizes_that_cannot_be_are_errors(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(**sizes)


def test_every_process_takes_part():
    devices = [types.SimpleNamespace(process_index=i // 2) for i in range(4)]
    with pytest.raises(UserError, match="2 of the 4 devices of 2 processes.*mesh.data=-1"):
        make_mesh(data=2, devices=devices)


def test_the_nearest_sizes_that_work():
    assert nearest(5, 16, lambda n: 16 % n == 0) == "4 or 8"
    assert nearest(3, 2, lambda n: n == 1) == "1" and nearest(1, 0, bool) == "none"


@pytest.mark.parametrize("sizes", [{"fsdp": 8, "tensor": 2}, {"fsdp": 4, "tensor": 4}])
def test_on_a_torus_neighbours_of_an_axis_are_neighbours(sizes):
    mesh = make_mesh(**sizes, devices=slice_devices("v5e:4x4"))
    places = np.array([device.coords for device in mesh.devices.flat])
    places = places.reshape(*mesh.devices.shape, 3)
    assert len({tuple(place) for place in places.reshape(-1, 3)}) == 16
    assert np.all(np.abs(np.diff(places, axis=2)).sum(-1) == 1)


def test_between_slices_lies_data_and_fsdp_where_it_must():
    slice_devices("v5e:2x4")  # sets libtpu up
    description = topologies.get_topology_desc("v5e:2x4", "tpu", num_slices=2)

    def slices(**sizes):
        mesh = make_mesh(**sizes, devices=description.devices)
        return np.vectorize(lambda device: device.slice_index)(mesh.devices)

    for sizes in ({"data": -1}, {"data": 2, "fsdp": -1}, {"data": 2, "fsdp": 4, "tensor": 2}):
        first, second = np.split(slices(**sizes), 2)
        assert not first.any() and second.all()
    first, second = np.split(slices(fsdp=-1), 2, axis=1)
    assert not first.any() and second.all()
    with pytest.raises(UserError, match="2 slices.*mesh.data to be a multiple of 2"):
        slices(tensor=16)


@pytest.mark.parametrize("nodes, connected", [("h100:4x2", 2), ("h200:2x4", 4), ("gb200:2x4", 8)])
def test_nodes_of_absent_gpus_are_told_apart_as_jax_does_with_present_ones(
    gpu_plugin, nodes, connected
):
    devices = absent_devices(nodes)
    groups = len(devices) // connected
    for sizes in ({"fsdp": -1}, {"data": groups, "fsdp": -1}, {"data": -1, "tensor": 2}):
        mesh = make_mesh(**sizes, devices=devices)
        assert [device.id for device in mesh.devices.flat] == list(range(len(devices)))
    # As one slice of TPUs, one group of GPUs is in the order of the machine.
    assert make_mesh(data=-1, tensor=connected, devices=devices).shape["tensor"] == connected
    if groups > 1:
        with pytest.raises(UserError, match=f"{groups} slices or nodes.*multiple of {groups}"):
            make_mesh(data=-1, tensor=2 * connected, devices=devices)
