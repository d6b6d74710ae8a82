"""The device: versions, the card against the plan's table, and its speed without a model."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from rrft_jax import __version__
from rrft_jax.accelerator import scale
from rrft_jax.accelerator.findings import Finding, at_least, at_most, near, same, told
from rrft_jax.bench.update import medians
from rrft_jax.errors import UserError
from rrft_jax.parallel import devices, gpus

PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu", "nvidia-cudnn-cu13"),
    *("flax", "optax", "transformers", "torch"),
)
NEAR = 0.03  # the share by which a card's memory may differ from the table
REACHED = 0.6  # the share of the maker's figures that simple programs reach at least
IN_USE = 1.0  # GiB that a driver and a desktop may take
MIB = 2**20
_FILES = {  # an accelerator that jax may not see -> the files that tell of it
    "an NVIDIA GPU": (("/dev/nvidia0", "/dev/nvidiactl"), "cuda13"),
    "a TPU": (("/dev/accel0", "/dev/vfio/0"), "tpu"),
}


def check() -> Iterator[Finding]:
    """Yield versions, then the device beside the plan's table, then its own speed.

    Raises:
      UserError: the machine has an accelerator that jax doesn't see.
    """
    yield told("rrft_jax", __version__)
    yield told("Python", platform.python_version())
    for name in PACKAGES:
        if version := _version(name):
            yield told(name, version)
    driver = _ask_driver()  # first, because JAX takes most of the memory
    device = jax.devices()[0]
    if device.platform == "cpu":
        refuse_hidden(os.environ)
    yield told("device", device.device_kind)
    yield told("devices", str(len(jax.devices())))
    if driver:
        yield told("driver", driver["driver_version"])
        used = float(driver["memory.used"]) * MIB / gpus.GIB
        yield at_most("memory in use by others, GiB", used, IN_USE)
    yield from _against_table(device, driver)
    yield from _speed(device)


def refuse_hidden(environment: Mapping[str, str]) -> None:
    """Refuse to take the CPU for the device of a machine that has an accelerator.

    Raises:
      UserError: there is one, and the environment doesn't ask for the CPU.
    """
    if "cpu" in environment.get("JAX_PLATFORMS", ""):
        return
    for name, (files, extra) in _FILES.items():
        if any(pathlib.Path(file).exists() for file in files):
            raise UserError(
                f"this machine has {name}, but jax {jax.__version__} sees only the CPU; install "
                f"jax[{extra}] of the same release, or set JAX_PLATFORMS=cpu to check the CPU"
            )


def _against_table(device: jax.Device, driver: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what the device tells of itself, beside the table that the plan compiles for."""
    if device.platform == "cpu":
        return
    card = gpus.BY_KIND.get(device.device_kind)
    known = card is not None or device.device_kind in devices.LIMITS
    yield same("known to the plan", str(known), "True")
    if card is None:
        return
    capability = ".".join(map(str, divmod(card.capability, 10)))
    yield same("compute capability", getattr(device, "compute_capability", None), capability)
    yield same("multiprocessors", getattr(device, "core_count", None), card.cores)
    if driver:
        total = float(driver["memory.total"]) * MIB / gpus.GIB
        yield near("memory, GiB", total, card.memory, NEAR)
        yield near("clock at most, GHz", float(driver["clocks.max.sm"]) / 1e3, card.clock, NEAR)


def _speed(device: jax.Device) -> Iterator[Finding]:
    """Yield the speed of a copy and of a matrix product, as shares of the maker's figures."""
    sizes, limits = scale.here(), devices.limits(device)
    array = jnp.zeros(sizes.copied, jnp.bfloat16)
    matrices = [
        jax.random.normal(jax.random.key(seed), 2 * (sizes.matrix,), jnp.bfloat16)
        for seed in range(2)
    ]
    programs = (jax.jit(lambda x: x + 1), jax.jit(jnp.matmul))
    copy, product = medians(
        [
            lambda: jax.block_until_ready(programs[0](array)),
            lambda: jax.block_until_ready(programs[1](*matrices)),
        ],
        5,
    )
    moved, flops = 2 * array.nbytes / copy, 2 * sizes.matrix**3 / product
    yield told("a copy, gigabytes a second", moved / 1e9)
    share = limits and moved / limits.bandwidth
    yield at_least("a copy, share of the memory's bandwidth", share, REACHED)
    yield told("a matrix product, 10^12 operations a second", flops / 1e12)
    share = limits and flops / limits.flops
    yield at_least("a matrix product, share of the peak", share, REACHED)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _ask_driver() -> dict[str, str]:
    """Return what NVIDIA's driver tells of the first visible card; nothing without a driver."""
    if not shutil.which("nvidia-smi"):
        return {}
    names = ("driver_version", "memory.total", "memory.used", "clocks.max.sm")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    asked = subprocess.run([*command, "-i", visible], capture_output=True, text=True, timeout=30)
    values = asked.stdout.strip().split(", ")
    return dict(zip(names, values)) if not asked.returncode and len(values) == len(names) else {}
