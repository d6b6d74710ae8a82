#!/usr/bin/env bash
# The other scripts source this file from the project's root. It makes .venv and installs the project
# into it, unless that is done. `setup_venv ""` installs what runs need, `setup_venv test` also what
# tests need.

find_python() {
  # PYTHON names the interpreter. Otherwise take the first one that is new enough. Some names exist
  # but do not start.
  local candidate candidates=(python3 python3.12 python3.11 python3.13)
  [ -n "${PYTHON:-}" ] && candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: ${candidates[*]}: expected Python 3.11 or newer with its venv module;" \
    "set PYTHON=/path/to/python" >&2
  return 1
}

setup_venv() {
  local extra=$1 python stamp wanted
  if ! .venv/bin/python -m pip --version > /dev/null 2>&1; then
    python=$(find_python) || exit 1
    echo "creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
  fi
  # The stamp says what was installed, so that pip runs only after a change.
  stamp=.venv/installed${extra:+-$extra}
  wanted=$(cat setup.py constraints.txt | .venv/bin/python -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
  # An installation for tests has everything that runs need.
  if ! grep -qsx "$wanted" "$stamp" .venv/installed-test; then
    echo "installing into .venv (a few minutes, once)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      -c constraints.txt -e ".${extra:+[$extra]}"
    echo "$wanted" > "$stamp"
  fi
}
