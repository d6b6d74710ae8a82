"""The lock of a run's folder: one run at a time writes there.

`RUN/lock` names the run that holds the folder. A killed run leaves the file behind. On its own
machine this shows at once: its flock on the file is gone, or its process is gone. Another machine
may see neither, and clocks differ. So the other machine watches the file: a live run changes it
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
# Seconds to watch for a sign of life. A shared disk may show a state that is up to 60 s old.
PATIENCE_SECONDS = 90


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Hold a run's folder within the block.

    The folder is made if missing, and removed again at the end if it is still empty.

    Raises:
      UserError: another run holds the folder, or it can't hold a run.
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
    """Let the first process hold the folder within the block; all processes must call this.

    Raises:
      UserError: in all processes, if `held` raises it in the first one.
    """
    with contextlib.ExitStack() as stack:
        # JAX allows 30 s for the first exchange. `held` may take longer, so exchange before it.
        distributed.gather(None)
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
        """Open the file; return its descriptor, and whether it could be locked.

        Raises:
          UserError: another run holds the folder.
        """
        dead = b""  # the content of the file of a run that gave no sign of life
        for attempt in itertools.count():
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                flock = _flock(descriptor)
                # The open file is no longer the one at this path, for its run has just ended. The
                # tries are limited, because on some disks a file has no lasting number.
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
        """Watch the file for PATIENCE_SECONDS; return its content, or b"" if it was deleted.

        Raises:
          UserError: the file changed, so another run is alive.
        """
        say(
            f"{self._file}: {_name(read_object(text))} holds this folder, and cannot be reached "
            f"from here; if it shows no sign of life within {PATIENCE_SECONDS} s, this run "
            "continues; delete that file to continue at once"
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
            f"{self._folder}: {_name(read_object(text))} is running there; wait until it ends, or "
            "give another --workdir"
        )

    def _write(self) -> None:
        self._beats += 1
        text = json.dumps(self._owner | {"beats": self._beats}).encode() + b"\n"
        os.pwrite(self._descriptor, text, 0)
        os.ftruncate(self._descriptor, len(text))
        with contextlib.suppress(OSError):  # some disks can't do this
            os.fsync(self._descriptor)

    def _live(self) -> None:
        """Give signs of life; end the process if another run has taken the folder over."""
        seconds = 1.0  # check soon: on a disk without locks two runs may have begun together
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
    """Lock a file until it is closed; return False if the disk has no locks.

    Raises:
      BlockingIOError: another process has locked the file.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _alive(owner: dict[str, Any], descriptor: int, flock: bool) -> bool | None:
    """Say whether the run that wrote a lock file is alive; None if this machine can't know it.

    Args:
      owner: the content of the file; {} if no run wrote it.
      descriptor: the file, opened in this process.
      flock: True if this process has locked the file.
    """
    here = _place()
    theirs = owner.get("place")
    if not isinstance(theirs, dict) or theirs.get("boot") != here["boot"]:
        return None
    # Both runs see the same disk on the same kernel. The other run's lock is gone, so the run is.
    if flock and owner.get("flock") and owner.get("device") == os.fstat(descriptor).st_dev:
        return False
    if here["namespace"] and theirs.get("namespace") == here["namespace"]:
        return _started(owner.get("pid")) == owner.get("started")
    return None


def _place() -> dict[str, str]:
    """Return the scope in which process ids are valid: this boot of the machine, this container."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "namespace": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return {"boot": socket.gethostname(), "namespace": ""}


def _started(pid: Any) -> str | None:
    """Return the start time of a process in ticks; None if it is gone.

    The start time tells the process from a later one with the same id.
    """
    try:
        state, *fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]


def _name(owner: dict[str, Any]) -> str:
    if not owner:
        return "another run"
    return f"process {owner.get('pid')} on {owner.get('host')} (since {owner.get('since')})"
