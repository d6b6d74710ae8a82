"""The limits of devices, as their makers state them, and the devices of absent TPU slices."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from rrft_jax.errors import UserError


class Limits(NamedTuple):
    """The limits of one JAX device: a chip, or half a chip on TPU7x.

    Attributes:
      flops: the dense bfloat16 operations a second.
      bandwidth: the memory's bytes a second.
      network: the bytes a second that the device sends to other devices (a TPU: of its slice).
      memory: the bytes that a program may use. For a TPU the compiler states them: the memory
        without the system's share. None if `limits` has to ask the device.
    """

    flops: float
    bandwidth: float
    network: float
    memory: float | None = None


GIB = 2**30
LIMITS = {  # by JAX's device kinds
    "NVIDIA A100-SXM4-40GB": Limits(312e12, 1.555e12, 300e9),
    "NVIDIA A100-SXM4-80GB": Limits(312e12, 2.039e12, 300e9),
    "NVIDIA H100 80GB HBM3": Limits(989e12, 3.35e12, 450e9),
    "NVIDIA H200": Limits(989e12, 4.8e12, 450e9),
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
    return known._replace(memory=(device.memory_stats() or {}).get("bytes_limit"))


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
