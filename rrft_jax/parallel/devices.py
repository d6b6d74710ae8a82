"""What devices can do, as their makers state it, and the devices of slices that aren't here."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from rrft_jax.errors import UserError


class Limits(NamedTuple):
    """Of a JAX device, which is a chip everywhere but on TPU7x, where it's half of one.

    Attributes:
      flops: dense bfloat16 operations a second.
      bandwidth: bytes a second that the memory gives.
      network: bytes a second that leave for the other devices (of a TPU: for its slice).
      memory: bytes that a program may use: the memory without what the system keeps, as the
        compiler for a TPU says it; None where the device itself is asked.
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
    """None of a device that isn't known, such as a CPU."""
    known = LIMITS.get(device.device_kind)
    if known is None or known.memory is not None:
        return known
    return known._replace(memory=(device.memory_stats() or {}).get("bytes_limit"))


def slice_devices(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice that isn't here, for `libtpu` to compile for.

    Raises:
      UserError: there's no `libtpu`, or it knows no such slice.
    """
    # It would ask the cloud where it is, complain, and let no second process near.
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    try:
        # A v4 chip's two cores are one device, as they are on every v4 that one can rent.
        options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
        if topology.endswith(":1x1"):  # a host has more of them, unless one says otherwise
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
