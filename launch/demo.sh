#!/usr/bin/env bash
# The whole pipeline on a small model and drawn pictures: SFT, GRPO, evaluation, export.
#   ./launch/demo.sh                        writes its results to runs/demo
#   ./launch/demo.sh --config.seed=1        any argument of rrft_jax.main
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh
setup_venv ""
exec .venv/bin/python -m rrft_jax.main --config=configs/grpo.py --workdir=runs/demo "$@"
