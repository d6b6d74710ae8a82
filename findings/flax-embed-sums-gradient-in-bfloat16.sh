#!/usr/bin/env bash
# The gradient of flax.linen.Embed(dtype=bfloat16) loses counts above 256 for a frequent token.
#
# Setup: a float32 table with nn.Embed(dtype=jnp.bfloat16). One token occurs 300 times, and the
# cotangent of every output is 1.
# Expected: the gradient of the row is 300, because the parameter is float32.
# Seen: it is 256. Embed casts the whole table to bfloat16 before the lookup, so the backward pass
# adds the rows in bfloat16, where 256 + 1 rounds to 256. A lookup in float32 followed by the
# cast gives the same outputs and the gradient 300.
# Versions: flax 0.12.8, jax and jaxlib 0.10.2 on CPU, Python 3.11.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2

JAX_PLATFORMS=cpu "$dir/venv/bin/python" - <<'PY'
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp

ids = jnp.zeros(300, jnp.int32)
embed = nn.Embed(num_embeddings=4, features=1, dtype=jnp.bfloat16)
params = embed.init(jax.random.key(0), ids)


def cast_after(params, ids):
    return params["params"]["embedding"][ids].astype(jnp.bfloat16)


same = bool((embed.apply(params, ids) == cast_after(params, ids)).all())
seen = {}
for name, lookup in {"nn.Embed": embed.apply, "cast after lookup": cast_after}.items():
    grad = jax.grad(lambda p: lookup(p, ids).astype(jnp.float32).sum())(params)
    grad = grad["params"]["embedding"]
    seen[name] = float(grad[0, 0])
    print(f"{name}: gradient {seen[name]} ({grad.dtype})")
print("same outputs:", same)
if not same or seen != {"nn.Embed": 256.0, "cast after lookup": 300.0}:
    sys.exit("CHANGED: the gradient of nn.Embed is no longer 256")
print("as stated: nn.Embed gives 256, a cast after the lookup gives 300")
PY
