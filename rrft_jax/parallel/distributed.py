"""Several processes, one a host, that run one program together: how they meet, what they tell.

JAX's own runtime does the work (`jax.distributed`, multi-controller): every process runs the same
program on its own rows, and arrays lie on the devices of all. What the hosts must know of each
other beside that goes through `gather`: the rewards of all groups, what was left out, whether to
stop. In one process it's all there already, and nothing is exchanged.
"""

import contextlib
import functools
import glob
import os
import pickle
import socket
import sys
import threading
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxlib import _jax

from rrft_jax.errors import UserError
from rrft_jax.parallel.rollcall import RollCall

HEARTBEAT_SECONDS = 30  # without a sign of life from a process before the others give up
MEETING_SECONDS = 300  # until all processes have come

# Bytes of a process that travel at once: what is short takes one exchange, and what is long never
# takes much of a device's memory, which holds those of all processes.
_SHORT, _LONG = 2**12, 2**18
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
) -> None:
    """Joins the other processes, if there are any; before anything else is asked of JAX.

    By itself where several tasks were started by Slurm's srun, on the hosts of a TPU slice, and in
    the pods of an indexed job in Kubernetes; elsewhere by what the command line says. One process
    stays alone, also on a login node, in a notebook, or on one host with a TPU.

    Args:
      coordinator: HOST:PORT of the first process; None goes by what the machines say.
      num_processes: how many there are; 1 is alone, whatever the machines say.
      process_id: which of them this is, from 0 on.
      heartbeat_seconds: when a process gives no sign of life for so long, all others end with an
        error.

    Where they don't come in MEETING_SECONDS, the process ends.

    Raises:
      UserError: the others weren't found, or another process has come with this one's number.
    """
    if (num_processes or _found()) == 1:
        return
    options: dict[str, Any] = {
        "heartbeat_timeout_seconds": heartbeat_seconds,
        "initialization_timeout": 2 * MEETING_SECONDS,
    }
    if coordinator:
        options |= {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
    elif devices := _devices_of_a_lone_task():
        options["local_device_ids"] = devices
    roll = None
    if coordinator:
        _meet_as(_address_towards(coordinator))
        roll = RollCall(coordinator, num_processes, process_id)
    # It would take SIGTERM for itself, which `interrupts` listens to.
    jax.config.update("jax_enable_preemption_service", False)
    alarm = threading.Timer(MEETING_SECONDS, _leave_alone, [roll])
    alarm.daemon = True
    alarm.start()
    try:
        if roll:
            roll.attend()
        jax.distributed.initialize(**options)
    except UserError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(_not_found(" ".join(str(error).split())[:300])) from error
    finally:
        alarm.cancel()


def is_host0() -> bool:
    """Whether this process writes the files that all share, and speaks."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """What every process gives, in the order of the processes; all must call it.

    The values can be pickled; they only ever come from processes of the same run.
    """
    if jax.process_count() == 1:
        return [value]
    data = pickle.dumps(value)
    data = len(data).to_bytes(8, "little") + data
    parts = [[part] for part in _exchange(data[:_SHORT], _SHORT)]
    sizes = [8 + int.from_bytes(part[:8], "little") for (part,) in parts]
    for start in range(_SHORT, max(sizes), _LONG):
        for found, part in zip(parts, _exchange(data[start : start + _LONG], _LONG)):
            found.append(part)
    return [pickle.loads(b"".join(found)[8:size]) for found, size in zip(parts, sizes)]


def gather_rows(row_ids: Sequence[int], rows: Sequence[Any]) -> list[Any]:
    """The rows of all processes in their order, each given with its place among them.

    Where two processes have the same row, the first one's counts: they all come to the same.
    """
    return merged(gather(dict(zip(map(int, row_ids), rows, strict=True))))


def merged(parts: Sequence[Mapping[int, Any]]) -> list[Any]:
    """Rows by their place, of several processes, in order; of two with one place the first."""
    rows = {place: row for part in reversed(parts) for place, row in part.items()}
    return [rows[place] for place in sorted(rows)]


def agree(flag: bool) -> bool:
    """Whether any process says so; all must call it."""
    return any(gather(flag))


def on_host0(make: Callable[[], Any]) -> Any:
    """What `make` gives in the first process, which alone calls it; a UserError is everyone's."""
    value = error = None
    if is_host0():
        try:
            value = make()
        except UserError as one:
            error = str(one)
    value, error = gather((value, error))[0]
    if error is not None:
        raise UserError(error)
    return value


@contextlib.contextmanager
def leaving_together() -> Iterator[None]:
    """Around a run: at its end processes wait for each other; one that fails ends at once.

    JAX would have a process that failed wait for the others, who wait for what it was to compute.
    """
    try:
        yield
        gather(None)
    except BaseException as error:
        if jax.process_count() > 1:
            _abandon(error)
        raise


def _abandon(error: BaseException) -> NoReturn:
    name = f"process {jax.process_index()} of {jax.process_count()}"
    if isinstance(error, UserError):
        print(f"error: {name}: {error}", file=sys.stderr)
    else:
        traceback.print_exception(error)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(
            f"error: {name}: {reason}; all processes end, and the same command goes on from the "
            "last checkpoint",
            file=sys.stderr,
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # no other way past the wait for the others at the interpreter's end


def _not_found(reason: str) -> str:
    return (
        f"the other processes weren't found ({reason}); name them by --coordinator=HOST:PORT "
        "--num_processes=N --process_id=I, or say --num_processes=1 for a run of one"
    )


def _leave_alone(roll: RollCall | None) -> NoReturn:
    """Ends a process that waits in vain, before JAX would abort it with a stack of its own."""
    reason = f"not all of them came in {MEETING_SECONDS} s"
    if roll and roll.absent:
        reason += f": --process_id={' and '.join(map(str, roll.absent))} did not"
    print(f"error: {_not_found(reason)}", file=sys.stderr, flush=True)
    os._exit(1)  # the thread that waits can't be woken


def _address_towards(coordinator: str) -> str | None:
    """This host's own address on the way to HOST:PORT; None where there's no such way."""
    host, _, port = coordinator.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        (family, kind, protocol, _, there), *_ = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )
        with socket.socket(family, kind, protocol) as one:
            one.connect(there)  # of a datagram socket: nothing is sent
            return one.getsockname()[0]
    return None


def _meet_as(address: str | None) -> None:
    """Has the CPU backend's collectives listen where the other hosts reach this one.

    They would take the address that the host's own name has, which may be the loopback's, and JAX
    has no setting for it.
    """
    make = getattr(_jax, "make_gloo_tcp_collectives", None)
    if address and make:
        make = getattr(make, "func", make)  # not twice
        _jax.make_gloo_tcp_collectives = functools.partial(make, hostname=address)


def _exchange(data: bytes, size: int) -> list[bytes]:
    """`size` bytes at most of each process."""
    padded = np.frombuffer(data.ljust(size, b"\0"), np.uint8)
    return [part.tobytes() for part in np.asarray(multihost_utils.process_allgather(padded))]


def _found() -> int:
    """By what the machines say: 1 without other processes; 0 lets JAX find them."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # only a step of srun has that
        return 0
    if "tpu" in os.environ.get("JAX_PLATFORMS", "tpu") and (hosts := _tpu_hosts()):
        return 1 if hosts == 1 else 0
    kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"}
    return 0 if kubernetes <= os.environ.keys() else 1


def _tpu_hosts() -> int:
    """Hosts of the TPU slices that this one belongs to; 0 where it has no TPU."""
    names = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    slices = os.environ.get("MEGASCALE_NUM_SLICES")
    if names is None:
        if not (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")):
            return 0
        names = _metadata("worker-network-endpoints")
        for line in _metadata("tpu-env").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "MEGASCALE_NUM_SLICES":
                slices = value.strip(" '\"")
    return len(names.split(",")) * int(slices or 1)


def _metadata(key: str) -> str:
    """What the cloud says of this machine; empty where there's no cloud, or it says nothing."""
    request = urllib.request.Request(_METADATA + key, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.read().decode()
    except (OSError, ValueError):
        return ""


def _devices_of_a_lone_task() -> Sequence[int] | None:
    """All GPUs of a node on which Slurm started one task: JAX would take one for each task."""
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if tasks.partition("(")[0] != "1":
        return None
    number = os.environ.get("SLURM_GPUS_ON_NODE") or len(glob.glob("/dev/nvidia[0-9]*"))
    return range(int(number)) or None
