"""The mesh: three axes, `data` and `fsdp` for the batch, `fsdp` and `tensor` for the weights."""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils

from rrft_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """A mesh over the first `data * fsdp * tensor` devices; one of the three may be -1, "the rest".

    `devices` are those of this machine, unless a program is to be compiled for others.

    Raises:
      UserError: the sizes ask for devices that are not there, or don't divide them.
    """
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    devices = jax.devices() if devices is None else devices
    available = len(devices)
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"mesh: {sizes}: give sizes of 1 or more, and at most one -1 (the rest)")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if open_axes:
        if available % fixed:
            raise UserError(f"mesh: {sizes}: {available} devices are not a multiple of {fixed}")
        sizes[open_axes[0]] = available // fixed
    needed = math.prod(sizes.values())
    if needed > available:
        raise UserError(f"mesh: {sizes} needs {needed} devices, there are {available}")
    devices = mesh_utils.create_device_mesh(tuple(sizes.values()), devices[:needed])
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.sharding.Mesh(devices, AXES, axis_types=auto)


def batch_parts(mesh: jax.sharding.Mesh) -> int:
    """How many parts a batch is split into: its size must be a multiple."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
