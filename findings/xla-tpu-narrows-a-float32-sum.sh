#!/usr/bin/env bash
# XLA for TPUs adds in bfloat16 where a program asks for a float32 sum that is then cast.
#
# Setup: x is bfloat16 [4,300,1536]. The program is x.astype(float32).sum(1).astype(bfloat16),
# compiled ahead of time for one TPU v5e.
# Expected: the reduction adds float32 numbers, as the program says, and rounds its result once.
# Seen: both casts are gone, and the reduction adds bfloat16 numbers: its region is
# (bf16[], bf16[]) -> bf16[]. A lax.optimization_barrier before the last cast keeps the region in
# float32. A lax.reduce_precision to bfloat16's bits before the last cast does so too, and gives the
# same numbers as the cast.
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
"$dir/venv/bin/python" - <<'PY'
import re
import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

device = topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0]
x = jax.ShapeDtypeStruct((4, 300, 1536), jnp.bfloat16, sharding=SingleDeviceSharding(device))


def total(x):
    return x.astype(jnp.float32).sum(1)


programs = {
    "cast": lambda x: total(x).astype(jnp.bfloat16),
    "barrier, cast": lambda x: jax.lax.optimization_barrier(total(x)).astype(jnp.bfloat16),
    "reduce_precision, cast": lambda x: jax.lax.reduce_precision(total(x), 8, 7).astype(
        jnp.bfloat16
    ),
}
seen = {}
for name, program in programs.items():
    text = jax.jit(program).lower(x).compile().as_text()
    regions = re.findall(r"^%region\S* \([^)]*\) -> (\w+)\[\] ", text, re.MULTILINE)
    seen[name] = sorted(set(regions))
    print(f"{name}: the reduction adds {seen[name]}")
if seen != {"cast": ["bf16"], "barrier, cast": ["f32"], "reduce_precision, cast": ["f32"]}:
    sys.exit("CHANGED: the sum that is cast is no longer the only one in bfloat16")
print("as stated: the sum of the plain program is in bfloat16")
PY
