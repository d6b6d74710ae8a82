#!/usr/bin/env bash
# JAX's compilation cache stores a program compiled for an absent TPU, and cannot read it again.
#
# Setup: jax_compilation_cache_dir is set. One small program is compiled ahead of time for a
# v5e:2x2 topology, first in one process and then in another.
# Expected: the second process takes the program from the cache; or nothing is stored.
# Seen: the first process stores an entry. The second one finds it, warns that it cannot be read
# ("PjRtCompiler must be constructed with a Client to call DeserializeLoadedExecutable"), and
# compiles again. So the cache grows, and saves no time, for programs compiled without the device.
# Versions: jax and jaxlib 0.10.2, libtpu 0.0.42.1, Python 3.11 on x86_64 Linux. No TPU is needed.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.42.1

# libtpu would ask the cloud about the machine, and let no second process near it.
export TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost TPU_ACCELERATOR_TYPE=v5litepod-4
export ALLOW_MULTIPLE_LIBTPU_LOAD=1 JAX_PLATFORMS=cpu
export JAX_COMPILATION_CACHE_DIR="$dir/cache"
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=0

cat > "$dir/compile.py" <<'PY'
import os
import warnings

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding


def entries():
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    return sum(name.endswith("-cache") for name in os.listdir(folder)) if os.path.isdir(folder) else 0


hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("/cache_hits")))
device = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0]
x = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=SingleDeviceSharding(device))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jax.jit(lambda x: jnp.tanh(x @ x)).lower(x).compile()
unreadable = sum("DeserializeLoadedExecutable" in str(w.message) for w in caught)
print(f"entries {entries()}, hits {sum(hits)}, unreadable {unreadable}")
PY

seen=""
for process in first second; do
  said=$("$dir/venv/bin/python" "$dir/compile.py")
  echo "$process process: $said"
  seen+="$said; "
done
if [ "$seen" != "entries 1, hits 0, unreadable 0; entries 1, hits 0, unreadable 1; " ]; then
  echo "CHANGED: the second process no longer finds an entry that it cannot read" >&2
  exit 1
fi
echo "as stated: the entry is stored, found and not readable"
