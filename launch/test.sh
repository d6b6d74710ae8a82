#!/usr/bin/env bash
# Runs all tests. It installs torch for them, because torch's model is the reference.
#   ./launch/test.sh                        everything
#   ./launch/test.sh tests/rewards -x       any argument of pytest
# On Linux pip's default torch brings CUDA along (gigabytes), but the tests need only its CPU build.
# To save disk and time, install that build into .venv first, or tell pip where to find it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh
setup_venv test
# Two processes run the tests. A file stays in one process, because its tests share fixtures.
# tests/conftest.py gives the order of the files.
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
