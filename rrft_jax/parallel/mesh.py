"""The mesh: `data` and `fsdp` split the batch; `fsdp` and `tensor` split the weights."""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from rrft_jax.errors import UserError
from rrft_jax.parallel import gpus

MESH_AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> jax.sharding.Mesh:
    """Return a mesh over the first `data * fsdp * tensor` devices; one size may be -1, "the rest".

    Neighbours on an axis are neighbours on the machine, above all those on `tensor`. TPU slices,
    or groups of GPUs, are connected by a slower network. `data` spans this network. `fsdp` spans
    it too if `data` is smaller than the number of slices.

    Args:
      data, fsdp, tensor: the sizes of the axes.
      devices: the devices; None takes those of all processes. Devices of an absent slice give a
        mesh to compile for.

    Raises:
      UserError: the sizes ask for more devices than there are, or don't divide their number.
    """
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    devices = jax.devices() if devices is None else devices
    available = len(devices)
    asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
    open_axes = [name for name, size in sizes.items() if size == -1]
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"mesh: {asked}: give sizes of 1 or more, or -1 for the rest")
    if len(open_axes) > 1:
        raise UserError(
            f"mesh: {asked}: at most one -1, which takes the rest; give another, such as "
            f"--config.mesh.{open_axes[0]}=1"
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if open_axes:
        if available % fixed:
            near = nearest(fixed, available, lambda n: available % n == 0)
            raise UserError(
                f"mesh: {asked}: {available} devices are not a multiple of {fixed}; {near} "
                "would divide them"
            )
        sizes[open_axes[0]] = available // fixed
    needed = math.prod(sizes.values())
    if needed > available:
        raise UserError(f"mesh: {asked} needs {needed} devices, there are {available}")
    processes = {device.process_index for device in devices}
    if needed < available and len(processes) > 1:
        raise UserError(
            f"mesh: {asked} takes {needed} of the {available} devices of {len(processes)} "
            "processes; a multi-process mesh must use every device; set --config.mesh.data=-1"
        )
    ordered = _ordered(tuple(sizes.values()), devices[:needed], asked)
    auto = (jax.sharding.AxisType.Auto,) * len(MESH_AXES)
    return jax.sharding.Mesh(ordered, MESH_AXES, axis_types=auto)


def batch_shards(mesh: jax.sharding.Mesh) -> int:
    """Return the number of shards of a batch; the batch size must be a multiple of it."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def nearest(size: int, most: int, works: Callable[[int], bool]) -> str:
    """Return the nearest sizes below and above that work, as the end of an error: "12 or 16"."""
    below = (n for n in range(min(size - 1, most), 0, -1) if works(n))
    above = (n for n in range(size + 1, most + 1) if works(n))
    return " or ".join(str(n) for n in (next(below, None), next(above, None)) if n) or "none"


def _ordered(shape: tuple[int, int, int], devices: Sequence[jax.Device], asked: str) -> np.ndarray:
    """Return the devices in the mesh's shape, ordered by their connections."""
    groups: dict[int, list[jax.Device]] = {}
    for device, group in zip(devices, _connections(devices)):
        groups.setdefault(group, []).append(device)
    over_data = math.gcd(shape[0], len(groups))
    over_fsdp = len(groups) // over_data
    if shape[1] % over_fsdp or len(set(map(len, groups.values()))) > 1:
        raise UserError(
            f"mesh: {asked}: the devices are {len(groups)} slices or nodes, between which only "
            f"data and fsdp may lie; expected mesh.data to be a multiple of {len(groups)}"
        )
    within = (shape[0] // over_data, shape[1] // over_fsdp, shape[2])
    # Some shapes cut an axis of a TPU's torus: 8 x 2 on 4 x 4 chips.
    parts = [
        mesh_utils.create_device_mesh(within, groups[group], allow_split_physical_axes=True)
        for group in sorted(groups)
    ]
    parts = np.stack(parts).reshape(over_data, over_fsdp, *within)
    return parts.transpose(0, 2, 1, 3, 4).reshape(shape)


def _connections(devices: Sequence[jax.Device]) -> list[int]:
    """Return for each device the number of its slice, or of the GPUs that NVLink connects.

    JAX states these numbers, but not for absent GPUs, which are in the order of their nodes. They
    are those of no process, so none has a hardware id.
    """
    connected = gpus.connected(devices)
    if connected and all(device.local_hardware_id is None for device in devices):
        return [i // connected for i in range(len(devices))]
    return [getattr(device, "slice_index", 0) for device in devices]
