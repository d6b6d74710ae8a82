#!/usr/bin/env bash
# Two jax.distributed coordinators on one host can listen on the same port. Linux only.
#
# Setup: two processes call jax.distributed.initialize as process 0 of 2 with the same
# coordinator_bind_address. Their coordinator_address is a port without a listener, so that
# no client connects and the two jobs do not disturb each other. The check ends both.
# Expected: the second process fails, because the port is in use.
# Seen: both processes listen on the port, and neither prints an error.
# Versions: jax and jaxlib 0.10.2 on CPU, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2

JAX_PLATFORMS=cpu "$dir/venv/bin/python" - <<'PY'
import pathlib
import socket
import subprocess
import sys
import time

with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
unused = socket.socket()  # bound without a listener: connections are refused
unused.bind(("127.0.0.1", 0))
code = (f"import jax; jax.distributed.initialize('127.0.0.1:{unused.getsockname()[1]}', 2, 0,"
        f" coordinator_bind_address='127.0.0.1:{port}', initialization_timeout=120)")


def listeners():
    """Return the number of sockets that listen on `port`."""
    rows = [r.split() for n in ("tcp", "tcp6")
            for r in pathlib.Path("/proc/net", n).read_text().splitlines()[1:]]
    return sum(r[3] == "0A" and int(r[1].split(":")[1], 16) == port for r in rows)


jobs = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
end = time.monotonic() + 60
while listeners() < 2 and all(j.poll() is None for j in jobs) and time.monotonic() < end:
    time.sleep(0.2)
time.sleep(2)  # an error may come late
seen = listeners(), sum(j.poll() is None for j in jobs)
for job in jobs:
    job.kill()
print("listeners on the port: {}, running processes: {}".format(*seen))
print("printed by the processes:", [job.communicate()[1].decode() for job in jobs])
if seen != (2, 2):
    sys.exit("CHANGED: the two processes no longer share the port")
print("as stated: both processes listen on one port")
PY
