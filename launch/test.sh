#!/usr/bin/env bash
# All tests; torch, the reference that the model must match, is installed for them.
#   ./launch/test.sh                        everything
#   ./launch/test.sh tests/rewards -x       any argument of pytest
# On Linux pip's default torch brings CUDA along (gigabytes). The tests need its CPU build only:
# where disk or time matter, install that one into .venv first, or tell pip where to find it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/setup.sh
setup_venv test
# Two processes; the tests of a file share their fixtures, so a file stays in one. Files are taken
# in the order of tests/conftest.py.
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
