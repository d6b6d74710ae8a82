"""The limits of devices, as their makers state them, and the devices of absent slices and nodes."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from rrft_jax.errors import UserError
from rrft_jax.parallel import gpus
from rrft_jax.parallel.gpus import GIB


class Limits(NamedTuple):
    """The limits of one JAX device: a chip, or half a chip on TPU7x.

    Attributes:
      flops: the dense bfloat16 operations a second.
      bandwidth: the memory's bytes a second.
      network: the bytes a second that the device sends to other devices of its slice, or to those
        that NVLink reaches.
      memory: the bytes that a program may use. For a TPU the compiler states them: the memory
        without the system's share. None if `limits` has to ask the device.
      between: the bytes a second that the device sends to GPUs that NVLink doesn't reach.
      whole: the memory of a GPU. JAX takes `memory` of it, and leaves the rest to CUDA's libraries.
    """

    flops: float
    bandwidth: float
    network: float
    memory: float | None = None
    between: float | None = None
    whole: float | None = None


LIMITS = {  # by JAX's device kinds
    **{
        gpu.kind: Limits(gpu.flops, gpu.bandwidth, gpu.nvlink, None, gpu.network, gpu.memory * GIB)
        for gpu in gpus.GPUS.values()
    },
    "TPU v4": Limits(275e12, 1.2e12, 300e9, 30.75 * GIB),
    "TPU v5 lite": Limits(197e12, 0.819e12, 200e9, 15.75 * GIB),
    "TPU v5": Limits(459e12, 2.765e12, 600e9, 95.74 * GIB),
    "TPU v6 lite": Limits(918e12, 1.638e12, 400e9, 31.25 * GIB),
    "TPU7x": Limits(2307e12 / 2, 7.38e12 / 2, 300e9, 94.75 * GIB),
}


def limits(device: jax.Device) -> Limits | None:
    """Return the limits of a device; None for an unknown device, such as a CPU."""
    known = LIMITS.get(device.device_kind)
    if known is None or known.memory is not None:
        return known
    try:
        memory = (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # the GPU is absent, or another process has it
        memory = int(gpus.memory_fraction() * known.whole)
    return known._replace(memory=memory)


def absent_devices(topology: str) -> Sequence[jax.Device]:
    """Return the devices of an absent TPU slice, or of absent nodes of GPUs.

    Raises:
      UserError: there is no such slice or node, or no compiler for it.
    """
    card = topology.partition(":")[0].lower()
    if card in gpus.GPUS:
        return gpus.node_devices(topology)
    if re.match(r"v\d|tpu", card):
        return slice_devices(topology)
    raise UserError(
        f"--topology={topology}: expected a TPU slice such as v5e:2x4, or GPUs such as h200:8 or "
        f"h100:2x8, with a card of {', '.join(gpus.GPUS)}"
    )


def slice_devices(topology: str) -> Sequence[jax.Device]:
    """Return the devices of an absent TPU slice, for which `libtpu` can compile.

    Raises:
      UserError: `libtpu` is not installed, or it does not know the slice.
    """
    # Without these settings, libtpu looks for a TPU in the cloud, prints errors, and refuses a
    # second process.
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    try:
        # The two cores of a v4 chip are one device, as on every v4 that can be rented.
        options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
        if topology.endswith(":1x1"):  # by default libtpu expects a host with more chips
            options["chips_per_host_bounds"] = (1, 1, 1)
        return topologies.get_topology_desc(topology, "tpu", **options).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--topology={topology}: expected a slice such as v5e:2x4, and libtpu installed "
            f"(pip install 'rrft_jax[tpu]'): {reason}"
        ) from error


_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
