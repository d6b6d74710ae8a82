#!/usr/bin/env bash
# Checks the GPU or TPU of this machine: are results right there, and how fast is a step? It needs no
# network and installs nothing. On a machine without an accelerator it runs in small on the CPU.
#   ./launch/accelerator_check.sh                          at most 9 minutes
#   ./launch/accelerator_check.sh --parts=device,kernels   any argument of rrft_jax.accelerator
#   PYTHON=/opt/venv/bin/python ./launch/accelerator_check.sh
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# PYTHON names the interpreter. Otherwise it is that of .venv, or python3.
if [ -n "${PYTHON:-}" ]; then
  python=$PYTHON
elif [ -x "$root/.venv/bin/python" ]; then
  python=$root/.venv/bin/python
else
  python=python3
fi
if ! missing=$("$python" -c 'import flax, jax, jaxtyping, optax, sys; assert sys.version_info >= (3, 11)' 2>&1); then
  echo "error: $python: expected Python 3.11 or newer with jax, flax, optax and jaxtyping" \
    "(${missing##*$'\n'}); set PYTHON=/path/to/python" >&2
  exit 1
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -m rrft_jax.accelerator "$@"
