#!/usr/bin/env bash
# Times a step of this package and of another one in turns, on one checkpoint, and prints the ratio.
#   ./launch/bench_peers.sh trl --work=grpo          a step of GRPO with its reference
#   ./launch/bench_peers.sh trl --work=sft           a step of SFT
#   ./launch/bench_peers.sh transformers             a step of GRPO by a plain loop around generate
#   ./launch/bench_peers.sh tunix                    a step of GRPO without pictures
#   ./launch/bench_peers.sh vllm                     sampling alone
#   ./launch/bench_peers.sh trl --turns=9 --threads=1
# The other package is installed once, into an environment of its own in PEERS_CACHE, by default
# ~/.cache/rrft_jax/peers. PYTHON names the interpreter that has this package; otherwise it is that
# of .venv, or python3. It needs Linux.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
export PEERS_CACHE=${PEERS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rrft_jax/peers}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-$python}" "$root/launch/peers/compare.py" "$@"
