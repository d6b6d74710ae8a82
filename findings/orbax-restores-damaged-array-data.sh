#!/usr/bin/env bash
# orbax restores a checkpoint with one damaged byte of array data, without an error.
#
# Setup: StandardCheckpointer saves a 4 MiB random float32 array. One bit is flipped in the middle
# byte of the largest file in state/ocdbt.process_0/d, like damage from a disk or a copy.
# Expected: restore raises an error. OCDBT has checksums for its own nodes: the same flip in
# state/manifest.ocdbt gives "CRC-32C checksum verification failed".
# Seen: restore raises no error and returns an array that differs from the saved one.
# Versions: orbax-checkpoint 0.12.8, tensorstore 0.1.86, jax and jaxlib 0.10.2 on CPU, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet orbax-checkpoint==0.12.8 tensorstore==0.1.86 \
  jax==0.10.2 jaxlib==0.10.2

JAX_PLATFORMS=cpu "$dir/venv/bin/python" - "$dir/state" <<'PY'
import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp

state = pathlib.Path(sys.argv[1])
saved = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(state, {"x": saved})
    checkpointer.wait_until_finished()
    data = max((state / "ocdbt.process_0/d").iterdir(), key=lambda p: p.stat().st_size)
    seen = []
    for path in state / "manifest.ocdbt", data:
        good = path.read_bytes()
        bad = bytearray(good)
        bad[len(bad) // 2] ^= 1
        path.write_bytes(bad)
        try:
            restored = checkpointer.restore(state, {"x": saved})["x"]
            seen.append("other values" if (restored != saved).any() else "same values")
        except ValueError as e:
            seen.append("checksum error" if "checksum verification failed" in str(e) else str(e))
        path.write_bytes(good)
print(f"flip in the manifest: {seen[0]}; flip in the array data: {seen[1]}")
if seen != ["checksum error", "other values"]:
    sys.exit("CHANGED: damaged array data is no longer restored without an error")
print("as stated: the damaged array is restored without an error")
PY
