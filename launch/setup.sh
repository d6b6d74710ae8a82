#!/usr/bin/env bash
# Sourced by the other scripts, from the project's root: makes .venv and installs the project in it,
# where that isn't done yet. `setup_venv ""` installs what runs need, `setup_venv test` the tests' too.

find_python() {
  # PYTHON chooses; else the first that is new enough. A name may be there and still not start.
  local candidate candidates=(python3 python3.12 python3.11 python3.13)
  [ -n "${PYTHON:-}" ] && candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: ${candidates[*]}: expected Python 3.11 or newer with its venv module;" \
    "name one by PYTHON=/path/to/python" >&2
  return 1
}

setup_venv() {
  local extra=$1 python stamp wanted
  if ! .venv/bin/python -m pip --version > /dev/null 2>&1; then
    python=$(find_python) || exit 1
    echo "creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
  fi
  # The stamp holds what was installed, so that nothing is asked of the index a second time.
  stamp=.venv/installed${extra:+-$extra}
  wanted=$(cat setup.py constraints.txt | .venv/bin/python -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
  # What the tests need holds what runs need.
  if ! grep -qsx "$wanted" "$stamp" .venv/installed-test; then
    echo "installing into .venv (a few minutes, once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      -c constraints.txt -e ".${extra:+[$extra]}"
    echo "$wanted" > "$stamp"
  fi
}
