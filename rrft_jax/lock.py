"""The lock of a run's folder: one run at a time writes there.

`RUN/lock` names the run that has it. A run that was killed leaves the file. On the machine where it
ran that is seen at once: its own lock on the file is gone (flock), or its process is. Another
machine may see neither, and clocks differ. There the file is watched: a run that lives changes it
every few seconds.
"""

import contextlib
import datetime
import fcntl
import itertools
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, NoReturn

from rrft_jax.errors import UserError
from rrft_jax.json_files import read_object
from rrft_jax.monitoring import interrupts, say
from rrft_jax.parallel import distributed

FILE = "lock"
BEAT_SECONDS = 10  # between two signs of life
# How long to watch for one. Disks that machines share show what was there up to 60 s ago.
PATIENCE_SECONDS = 90


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Within, the folder, made if missing, is this run's; one that stays empty goes again.

    Raises:
      UserError: another run has it, or it can't hold one.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _Lock(folder)
    except OSError as error:
        raise UserError(f"{folder}: can't hold a run ({error}); give another --workdir") from None
    try:
        yield
    finally:
        lock.release()
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()


@contextlib.contextmanager
def held_by_host0(folder: pathlib.Path) -> Iterator[None]:
    """Within, the first process of the run holds the folder; all processes must call it.

    Raises:
      UserError: as `held` does, in all processes.
    """
    with contextlib.ExitStack() as stack:
        distributed.gather(None)  # for the first exchange JAX has 30 s, and what follows may wait
        distributed.on_host0(lambda: stack.enter_context(held(folder)))
        yield


class _Lock:
    def __init__(self, folder: pathlib.Path):
        self._folder, self._file = folder, folder / FILE
        self._beats = 0
        self._descriptor, flock = self._take()
        self._owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
            "started": _started(os.getpid()),
            "place": _place(),
            "device": os.fstat(self._descriptor).st_dev,
            "flock": flock,
            "token": uuid.uuid4().hex,
        }
        self._write()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if read_object(self._file.read_bytes()).get("token") == self._owner["token"]:
                self._file.unlink()
        os.close(self._descriptor)

    def _take(self) -> tuple[int, bool]:
        """The file, opened, and whether it could be locked; another run's is refused."""
        dead = b""  # what was in it when its run gave no sign of life
        for attempt in itertools.count():
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                flock = _flock(descriptor)
                # Its run has just ended; or it's a disk where files have no lasting number.
                if attempt < 10 and not self._is(descriptor):
                    os.close(descriptor)
                    continue
                text = os.pread(descriptor, 4096, 0)
                alive = text != dead and _alive(read_object(text), descriptor, flock)
            except BlockingIOError:
                text, alive = os.pread(descriptor, 4096, 0), True
            if alive is False:
                return descriptor, flock
            os.close(descriptor)
            if alive:
                self._refuse(text)
            dead = self._watch(text)

    def _is(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._file))
        except FileNotFoundError:
            return False

    def _watch(self, text: bytes) -> bytes:
        """What is in the file, once it has stayed so; a sign of life is refused."""
        say(
            f"{self._file} is of {_name(read_object(text))}, which can't be asked from here; if it "
            f"gives no sign of life within {PATIENCE_SECONDS} s, this run goes on; delete that "
            "file to go on at once"
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        with interrupts.at_once(f"waiting for the run in {self._folder}"):
            while time.monotonic() < deadline:
                time.sleep(0.2)
                try:
                    now = self._file.read_bytes()
                except FileNotFoundError:
                    return b""
                if now != text:
                    self._refuse(now)
        return text

    def _refuse(self, text: bytes) -> NoReturn:
        raise UserError(
            f"{self._folder}: {_name(read_object(text))} runs there; wait until it has ended, or "
            "give another --workdir"
        )

    def _write(self) -> None:
        self._beats += 1
        text = json.dumps(self._owner | {"beats": self._beats}).encode() + b"\n"
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))
        with contextlib.suppress(OSError):  # not every disk can
            os.fsync(self._descriptor)

    def _live(self) -> None:
        """Gives signs of life; ends the process where another one has taken the folder over."""
        seconds = 1.0  # soon: where a disk has no locks, two may have come at the same time
        while not self._released.wait(seconds):
            seconds = BEAT_SECONDS
            with contextlib.suppress(OSError):  # a network may be down for a while
                owner = read_object(self._file.read_bytes())
                if owner.get("token") == self._owner["token"]:
                    self._write()
                elif owner:
                    line = f"error: {self._folder}: {_name(owner)} has taken it over; this run ends"
                    os.write(2, line.encode() + b"\n")
                    os._exit(1)


def _flock(descriptor: int) -> bool:
    """Locks a file until it's closed; whether the disk can do that.

    Raises:
      BlockingIOError: another process has locked it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _alive(owner: dict[str, Any], descriptor: int, flock: bool) -> bool | None:
    """Whether a run that isn't known to hold its file is there; None: it can't be seen from here.

    Args:
      owner: what the run wrote, empty where none did.
      descriptor: its file, opened here.
      flock: whether it's locked here.
    """
    here = _place()
    theirs = owner.get("place")
    if not isinstance(theirs, dict) or theirs.get("boot") != here["boot"]:
        return None
    # One kernel and one mount: the lock that it had went with it.
    if flock and owner.get("flock") and owner.get("device") == os.fstat(descriptor).st_dev:
        return False
    if here["namespace"] and theirs.get("namespace") == here["namespace"]:
        return _started(owner.get("pid")) == owner.get("started")
    return None


def _place() -> dict[str, str]:
    """Where process ids mean something: this start of the machine, this container."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return {"boot": socket.gethostname(), "namespace": ""}


def _started(pid: Any) -> str | None:
    """When a process started, in ticks: an id may have become another one's. None: it's gone."""
    try:
        state, *fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]


def _name(owner: dict[str, Any]) -> str:
    if not owner:
        return "another run"
    return f"process {owner.get('pid')} on {owner.get('host')} (since {owner.get('since')})"
