#!/usr/bin/env bash
# JAX's compilation cache keeps no further program once one program has lost its time of use.
#
# Setup: a cache with a bound, jax_compilation_cache_max_size. JAX writes two files for a program:
# the program (KEY-cache), then the time of its last use (KEY-atime). A process that is killed
# between the two leaves the first alone. Here the second is deleted from a full pair.
# Expected: JAX takes such a program as the oldest one, or leaves it out, and keeps the next ones.
# Seen: in every later process, each new program is compiled and not kept, with the warning
# "Error writing persistent compilation cache entry ... FileNotFoundError". Programs that are there
# are still taken. Nothing mends the folder. Without a bound, new programs are kept.
# Versions: jax 0.10.2, filelock 3.32.0, Python 3.11. jax 0.12.0.1 keeps the new programs.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 filelock==3.32.0

cat > "$dir/keep.py" <<'EOF'
import pathlib, sys, warnings
import jax, jax.numpy as jnp

folder, size, bound = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_compilation_cache_dir", str(folder))
jax.config.update("jax_compilation_cache_max_size", bound)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
before = set(folder.glob("*-cache"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jax.jit(lambda x: jnp.sin(x) * size)(jnp.ones(size))
kept = len(set(folder.glob("*-cache")) - before)
failed = sum("FileNotFoundError" in str(warning.message) for warning in caught)
print(f"kept {kept > 0}, warned {failed > 0}")
EOF

run() { JAX_PLATFORMS=cpu "$dir/venv/bin/python" "$dir/keep.py" "$dir/cache" "$@"; }

stated="kept True, warned False
kept True, warned False
kept False, warned True
kept False, warned True
kept True, warned False"
seen=$(
  run 3 1000000000
  run 4 1000000000
  rm "$(find "$dir/cache" -name 'jit__lambda*-atime' | sort | head -n 1)"
  run 5 1000000000
  run 6 1000000000
  run 7 -1 # no bound
)
echo "$seen"
[ "$seen" = "$stated" ] || { echo "CHANGED: stated was $stated"; exit 1; }
echo "as stated"
