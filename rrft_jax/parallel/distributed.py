"""The processes of a run, one per host: how they meet, and how they exchange values.

JAX's own runtime does the work (`jax.distributed`, multi-controller). Every process runs the same
program on its own rows, and arrays lie on the devices of all processes. `gather` exchanges
everything else that the hosts must know of each other: the rewards of all groups, the skipped
samples, a request to stop. A single process exchanges nothing.
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
from rrft_jax.monitoring import waiting
from rrft_jax.parallel.rollcall import RollCall

HEARTBEAT_SECONDS = 30  # of silence from one process, after which the others give up
MEETING_SECONDS = 300  # for all processes to join

# The bytes that a process sends at once. A short value takes one exchange. A long value is cut
# into pieces, because a device holds the pieces of all processes at the same time.
_SHORT, _LONG = 2**12, 2**18
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_seconds: int = HEARTBEAT_SECONDS,
) -> None:
    """Join the other processes of the run, if there are any. Call this before any other JAX call.

    The processes find each other without arguments if Slurm's srun started several tasks, on the
    hosts of a TPU slice, and in the pods of an indexed Kubernetes job. Elsewhere the command line
    names them. One process stays alone, also on a login node, in a notebook, or on a single host
    with a TPU. If a process does not join within MEETING_SECONDS, the others exit with an error.

    Args:
      coordinator: HOST:PORT of the first process; None finds it from the environment.
      num_processes: the number of processes; 1 is a run of one, whatever the environment says.
      process_id: the number of this process, from 0 on.
      heartbeat_seconds: the seconds of silence from one process after which all others end with
        an error.

    Raises:
      UserError: the other processes were not found, or another process has the same number.
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
    # JAX's preemption service would catch SIGTERM, which `interrupts` handles.
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
    """Say whether this process is the first one, which writes the shared files and prints."""
    return jax.process_index() == 0


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of the processes; all must call this.

    Values travel as pickles. Pickles are safe here: they come only from processes of the same run.
    """
    if jax.process_count() == 1:
        return [value]
    data = pickle.dumps(value)
    data = len(data).to_bytes(8, "little") + data
    with waiting("waiting for the other processes"):
        parts = [[part] for part in _exchange(data[:_SHORT], _SHORT)]
    sizes = [8 + int.from_bytes(part[:8], "little") for (part,) in parts]
    for start in range(_SHORT, max(sizes), _LONG):
        for found, part in zip(parts, _exchange(data[start : start + _LONG], _LONG)):
            found.append(part)
    return [pickle.loads(b"".join(found)[8:size]) for found, size in zip(parts, sizes)]


def gather_rows(row_ids: Sequence[int], rows: Sequence[Any]) -> list[Any]:
    """Return the rows of all processes in the order of their ids; all must call this.

    If several processes have a row, the first process's value is taken, so that all agree.
    """
    return merged(gather(dict(zip(map(int, row_ids), rows, strict=True))))


def merged(parts: Sequence[Mapping[int, Any]]) -> list[Any]:
    """Return the rows of several processes in the order of their ids; the first of equal ids."""
    rows = {place: row for part in reversed(parts) for place, row in part.items()}
    return [rows[place] for place in sorted(rows)]


def agree(flag: bool) -> bool:
    """Say whether the flag is true in any process; all must call this."""
    return any(gather(flag))


def on_host0(make: Callable[[], Any]) -> Any:
    """Call `make` in the first process only, and return its result in all.

    Raises:
      UserError: `make` raised it; then all processes raise it.
    """
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
    """Wrap a run: processes wait for each other at its end, but a failed process exits at once.

    JAX would make a failed process wait for the others, and these wait for its results.
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
            f"error: {name}: {reason}; all processes end, and the same command resumes from the "
            "last checkpoint",
            file=sys.stderr,
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # a normal exit would wait for the other processes


def _not_found(reason: str) -> str:
    return (
        f"the other processes weren't found ({reason}); name them by --coordinator=HOST:PORT "
        "--num_processes=N --process_id=I, or say --num_processes=1 for a run of one"
    )


def _leave_alone(roll: RollCall | None) -> NoReturn:
    """End a process whose peers did not join, before JAX aborts it with a C++ stack trace."""
    reason = f"not all of them came in {MEETING_SECONDS} s"
    if roll and roll.absent:
        reason += f": --process_id={' and '.join(map(str, roll.absent))} did not"
    print(f"error: {_not_found(reason)}", file=sys.stderr, flush=True)
    os._exit(1)  # nothing can wake the main thread, which waits in C++


def _address_towards(coordinator: str) -> str | None:
    """Return the address from which this host reaches HOST:PORT; None if it can't reach it."""
    host, _, port = coordinator.rpartition(":")
    with contextlib.suppress(OSError, ValueError):
        (family, kind, protocol, _, there), *_ = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_DGRAM
        )
        with socket.socket(family, kind, protocol) as one:
            one.connect(there)  # a datagram socket sends nothing here
            return one.getsockname()[0]
    return None


def _meet_as(address: str | None) -> None:
    """Make the CPU backend's collectives listen at the address where other hosts reach this one.

    By default they listen at the address of the host's own name, which may be the loopback
    address. JAX has no setting for it.
    """
    make = getattr(_jax, "make_gloo_tcp_collectives", None)
    if address and make:
        make = getattr(make, "func", make)  # an earlier call may have wrapped it
        _jax.make_gloo_tcp_collectives = functools.partial(make, hostname=address)


def _exchange(data: bytes, size: int) -> list[bytes]:
    """Return the data of each process, at most `size` bytes, padded with zeros to `size`."""
    padded = np.frombuffer(data.ljust(size, b"\0"), np.uint8)
    return [part.tobytes() for part in np.asarray(multihost_utils.process_allgather(padded))]


def _found() -> int:
    """Look for other processes in the environment: return 1 for none, 0 to let JAX find them."""
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # only srun sets this variable
        return 0
    if "tpu" in os.environ.get("JAX_PLATFORMS", "tpu") and (hosts := _tpu_hosts()):
        return 1 if hosts == 1 else 0
    kubernetes = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"}
    return 0 if kubernetes <= os.environ.keys() else 1


def _tpu_hosts() -> int:
    """Return the number of hosts in this host's TPU slices; 0 if it has no TPU."""
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
    """Return an attribute of this cloud machine; "" if there is no cloud or no such attribute."""
    request = urllib.request.Request(_METADATA + key, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.read().decode()
    except (OSError, ValueError):
        return ""


def _devices_of_a_lone_task() -> Sequence[int] | None:
    """Return all GPUs of a node on which Slurm started one task; else None.

    JAX would take only one GPU per task.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if tasks.partition("(")[0] != "1":
        return None
    number = os.environ.get("SLURM_GPUS_ON_NODE") or len(glob.glob("/dev/nvidia[0-9]*"))
    return range(int(number)) or None
