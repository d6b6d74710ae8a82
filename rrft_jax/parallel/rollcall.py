"""A roll call of the processes of a run at HOST:PORT, before JAX's runtime connects them there.

If two processes give the same number, JAX's runtime takes the second for a restart of the first.
It ends the first one with a C++ stack trace, or ends a whole run that has already begun. So the
processes first tell each other their numbers here. A number that is taken is refused, and a
process that comes later finds no roll call any more.
"""

import contextlib
import errno
import json
import os
import socket
import threading
import time
from typing import Any

from rrft_jax.errors import UserError

_LONGEST = 4096  # bytes of a line
_PAUSE = 0.1  # seconds between two tries to reach the first process


class RollCall:
    """The list of the processes that have joined; process 0 keeps it.

    RollCall("10.0.0.1:1234", num_processes=2, process_id=1).attend()
    """

    def __init__(self, coordinator: str, num_processes: int, process_id: int):
        """Prepare the roll call; nothing is sent before `attend`.

        Args:
          coordinator: HOST:PORT of process 0, which listens there.
          num_processes: the number of processes.
          process_id: the number of this process, from 0 on.
        """
        host, _, port = coordinator.rpartition(":")
        self._coordinator, self._address = coordinator, (host.strip("[]"), int(port))
        self._number, self._own = num_processes, process_id
        self._lock = threading.Lock()
        self._present: dict[int, tuple[socket.socket, dict[str, Any]]] = {}

    def attend(self) -> None:
        """Return when all processes have joined; wait forever if one does not.

        Raises:
          UserError: process 0 refused this process, cannot listen, or has ended its roll call.
        """
        if self._own == 0:
            threading.Thread(target=self._call, args=(self._listen(),), daemon=True).start()
        me = {"process_id": self._own, "num_processes": self._number}
        line = json.dumps(me | {"host": socket.gethostname(), "pid": os.getpid()}) + "\n"
        while (answer := self._say(line.encode())) is None:
            time.sleep(_PAUSE)
        if answer:
            raise UserError(answer)
        while self._own and not self._reachable():  # JAX would retry only once a second
            time.sleep(_PAUSE)

    def _say(self, line: bytes) -> str | None:
        """Send this process's line; return why it is refused ("": it isn't, None: no answer)."""
        with contextlib.suppress(OSError):
            with socket.create_connection(self._address, timeout=10) as connection:
                connection.settimeout(None)
                connection.sendall(line)
                answer = connection.makefile("rb").readline(_LONGEST)
            if not answer:
                return None
            with contextlib.suppress(ValueError):
                return json.loads(answer)["refused"]
            return (
                f"--coordinator={self._coordinator}: the processes of the run there have met "
                "already, or it's another program; end that one, or give all another port"
            )
        return None

    def _reachable(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(self._address, timeout=10).close()
            return True
        return False

    def _listen(self) -> socket.socket:
        bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or self._coordinator  # as JAX does
        port = int(bound.rpartition(":")[2])
        both = socket.has_dualstack_ipv6()
        try:
            family = socket.AF_INET6 if both else socket.AF_INET
            return socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            reason = error.strerror
            if error.errno == errno.EADDRINUSE:
                reason = f"port {port} is in use here, by another process 0 or another program"
            raise UserError(
                f"--coordinator={self._coordinator}: {reason}; end it, or give all another port"
            ) from None

    def _call(self, server: socket.socket) -> None:
        """Answer all processes that connect, until each number is present."""
        server.settimeout(_PAUSE)
        while self.absent:
            with contextlib.suppress(TimeoutError):
                connection, _ = server.accept()
                connection.settimeout(None)
                threading.Thread(target=self._hear, args=(connection,), daemon=True).start()
        server.close()  # before the answers: JAX listens on this port next
        for connection, _ in list(self._present.values()):
            _answer(connection, "")

    def _hear(self, connection: socket.socket) -> None:
        """Serve one connection: refuse its process, or count it as present until it leaves."""
        with connection, contextlib.suppress(OSError):
            told = _read(connection)
            if told is None:  # another program
                return
            process_id = told["process_id"]
            with self._lock:
                refused = self._refused(told)
                if not refused:
                    self._present[process_id] = connection, told
            if refused:
                _answer(connection, refused)
                return
            with contextlib.suppress(OSError):
                connection.recv(1)  # returns when the process leaves; it sends nothing more
            with self._lock:
                if self.absent:
                    del self._present[process_id]

    @property
    def absent(self) -> list[int]:
        """The numbers of the processes that have not joined yet; [] except in process 0."""
        return [i for i in range(self._number) if i not in self._present] * (self._own == 0)

    def _refused(self, told: dict[str, Any]) -> str:
        process_id, number = told["process_id"], told["num_processes"]
        if number != self._number:
            return f"--num_processes={number}: process 0 says {self._number}; give all the same"
        if process_id in self._present:
            _, other = self._present[process_id]
            return (
                f"--process_id={process_id}: process {other['pid']} on {other['host']} has come "
                f"with it already; give each its own, from 0 to {number - 1}"
            )
        return ""


def _read(connection: socket.socket) -> dict[str, Any] | None:
    """Read the line in which a process describes itself; None if it is another program."""
    try:
        told = json.loads(connection.makefile("rb").readline(_LONGEST))
        numbers = [told[name] for name in ("process_id", "num_processes", "pid")]
    except (ValueError, KeyError, TypeError):
        return None
    return told if all(isinstance(number, int) for number in numbers) else None


def _answer(connection: socket.socket, refused: str) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps({"refused": refused}).encode() + b"\n")
