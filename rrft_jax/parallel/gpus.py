"""GPUs by name: the public figures of each card, and nodes of absent ones to compile for."""

import importlib.metadata
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies
from packaging.requirements import Requirement

from rrft_jax.errors import UserError

GIB = 2**30


class Gpu(NamedTuple):
    """The figures of a card, as its maker states them.

    Attributes:
      kind: the name that CUDA gives the card, which is JAX's device kind.
      capability: the compute capability, times ten.
      cores: the number of streaming multiprocessors.
      lanes: the float32 operations that one of them begins in a cycle.
      clock: the greatest clock, in GHz.
      shared: the KiB of shared memory of a multiprocessor.
      cache: the MiB of the second-level cache.
      memory: the GiB that CUDA reports. They are fewer than on the label, because the driver keeps
        a part.
      bandwidth: the bytes a second of the memory.
      flops: the dense bfloat16 operations a second.
      nvlink: the bytes a second that a card sends to others by NVLink.
      network: the bytes a second that a card sends to where NVLink doesn't reach, by the network
        adapter that the maker's own systems have for each card.
      node: the cards of a node.
      domain: the cards that NVLink connects, of one node or of a rack.
    """

    kind: str
    capability: int
    cores: int
    lanes: int
    clock: float
    shared: int
    cache: int
    memory: float
    bandwidth: float
    flops: float
    nvlink: float
    network: float
    node: int = 8
    domain: int = 8


_A100 = (80, 108, 64, 1.41, 164, 40)
_HOPPER = (90, 132, 128, 1.98, 228, 50)
GPUS = {  # by the names of `--topology`
    "a100-40": Gpu("NVIDIA A100-SXM4-40GB", *_A100, 39.4, 1.555e12, 312e12, 300e9, 25e9),
    "a100-80": Gpu("NVIDIA A100-SXM4-80GB", *_A100, 79.2, 2.039e12, 312e12, 300e9, 25e9),
    "h100": Gpu("NVIDIA H100 80GB HBM3", *_HOPPER, 79.1, 3.35e12, 989e12, 450e9, 50e9),
    "h200": Gpu("NVIDIA H200", *_HOPPER, 139.8, 4.8e12, 989e12, 450e9, 50e9),
    "b200": Gpu(
        *("NVIDIA B200", 100, 148, 128, 1.965, 228, 126),
        *(178.3, 7.7e12, 2250e12, 900e9, 50e9),
    ),
    "gb200": Gpu(
        *("NVIDIA GB200", 100, 152, 128, 2.062, 228, 126),
        *(184.3, 8e12, 2500e12, 900e9, 50e9),
        node=4,
        domain=72,
    ),
}
BY_KIND = {gpu.kind: gpu for gpu in GPUS.values()}  # by JAX's device kinds
MOST_NODES = 1024  # a plan holds a record of every GPU


def node_devices(topology: str) -> Sequence[jax.Device]:
    """Return the GPUs of absent nodes, in the order of the nodes, for which JAX can compile.

    Args:
      topology: CARD:GPUS, such as h200:8, or CARD:NODESxGPUS with the GPUs of one node.

    Raises:
      UserError: there are no such nodes, or JAX's CUDA plug-in is not installed.
    """
    gpu, nodes, cards = _parsed(topology)
    check_plugin()
    memory_fraction()  # JAX's plug-in doesn't start with one that isn't a number
    # Between two partitions there is no NVLink.
    partitions = max(1, nodes * gpu.node // gpu.domain)
    layout = f"{partitions}x{nodes // partitions}x{cards}"
    try:
        found = topologies.get_topology_desc(
            platform="cuda", topology_name=topology, target_config=target(gpu), topology=layout
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--topology={topology}: JAX can't describe these GPUs; install jax-cuda13-plugin anew "
            f"by {INSTALL}: {reason}"
        ) from error
    return found.devices


def connected(found: Sequence[jax.Device]) -> int | None:
    """Return how many of the GPUs, in their order, NVLink connects; None for other devices."""
    gpu = BY_KIND.get(found[0].device_kind)
    if gpu is None:
        return None
    of_node = sum(device.process_index == found[0].process_index for device in found)
    return min(len(found), of_node * (gpu.domain // gpu.node))


def _parsed(topology: str) -> tuple[Gpu, int, int]:
    """Return (the card, the number of nodes, the cards of a node)."""
    name, _, size = topology.partition(":")
    gpu = GPUS.get(name.lower())
    numbers = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", size)
    if gpu is None or numbers is None:
        raise UserError(
            f"--topology={topology}: expected CARD:GPUS or CARD:NODESxGPUS, such as h200:8 or "
            f"h100:2x8, with a card of {', '.join(GPUS)}"
        )
    nodes, cards = int(numbers[1] or 1), int(numbers[2])
    if cards > gpu.node:
        raise UserError(
            f"--topology={topology}: a node has at most {gpu.node} cards of {name}; for several "
            f"nodes write {name}:{-(-cards // gpu.node)}x{gpu.node}"
        )
    if nodes > MOST_NODES:
        raise UserError(f"--topology={topology}: expected at most {MOST_NODES} nodes")
    rack = gpu.domain // gpu.node
    if nodes > rack and nodes % rack:
        raise UserError(
            f"--topology={topology}: NVLink connects {rack} nodes of {name}; expected at most "
            f"{rack} nodes, or a multiple of {rack}"
        )
    return gpu, nodes, cards


def target(gpu: Gpu) -> str:
    """Return the card as the text form of XLA's `GpuTargetConfigProto`."""
    major, minor = divmod(gpu.capability, 10)
    accelerated = "ACCELERATED_FEATURES" if major >= 9 else "NONE"
    return f"""\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  shared_memory_per_block: {48 * 2**10}
  shared_memory_per_block_optin: {(gpu.shared - 1) * 2**10}
  shared_memory_per_core: {gpu.shared * 2**10}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  clock_rate_ghz: {gpu.clock}
  l2_cache_size: {gpu.cache * 2**20}
  memory_bandwidth: {gpu.bandwidth:.0f}
  device_memory_size: {gpu.memory * GIB:.0f}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {accelerated} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "{gpu.kind}"
"""


INSTALL = "pip install 'rrft_jax[plan-gpu]'"
_PLUGIN = "jax-cuda13-plugin"
_OF_JAX = (_PLUGIN, "jax-cuda13-pjrt")  # of the release of JAX
_OF_CUDA = ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cudnn-cu13")


def check_plugin() -> None:
    """Check that JAX's CUDA plug-in is installed, of JAX's release, with all that it compiles by.

    Raises:
      UserError: it is absent, or of another release.
    """
    [wanted] = (
        asked.specifier
        for asked in map(Requirement, importlib.metadata.requires("jax"))
        if asked.name == _PLUGIN and asked.marker.evaluate({"extra": "cuda13-local"})
    )
    for name in _OF_JAX + _OF_CUDA:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                f"compiling for GPUs needs {name}, which isn't installed; {INSTALL}"
            ) from None
        if name in _OF_JAX and not wanted.contains(found):
            raise UserError(
                f"compiling for GPUs with jax {jax.__version__} needs {name}{wanted}, and {found} "
                f"is installed; {INSTALL}"
            )


FRACTION = 0.75  # JAX's default
FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def memory_fraction() -> float:
    """Return the share of a GPU's memory that JAX takes when it starts.

    Raises:
      UserError: the environment states two shares, or one that is no positive, finite number.
    """
    told = {name: os.environ[name] for name in FRACTIONS if os.environ.get(name)}
    if len(told) > 1:
        raise UserError(f"{' and '.join(told)} are both set; unset {FRACTIONS[1]}, the older name")
    name, value = next(iter(told.items()), ("", FRACTION))
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share < math.inf:
        raise UserError(f"{name}={value}: expected a share of the memory, such as 0.9")
    return share
