#!/usr/bin/env bash
# A parquet page has 1,024 pictures, whatever data_page_size says, so reading one picture reads all.
#
# Setup: 1,024 values of 50,000 random bytes, as pictures inside of rows are, are written to one row
# group with data_page_size of 1 MiB. The first row is then read by iter_batches(1), without
# pre-buffering.
# Expected: pages of about 1 MiB, so a few megabytes of memory for one row.
# Seen: 102 MB, which is twice the file. The writer looks at the size of a page only after each
# write_batch_size values, 1,024 by default. With write_batch_size=16 the same row takes 3 MB.
# Versions: pyarrow 26.0.1, Python 3.11 on x86_64 Linux.
#
# Exit status: 0 if the behaviour is as stated, 1 if it has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet pyarrow==26.0.1

cat > "$dir/write.py" <<'PY'
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq

file, values = sys.argv[1], int(sys.argv[2])
pictures = pa.table({"picture": [os.urandom(50_000) for _ in range(1024)]})
pq.write_table(
    pictures, file, data_page_size=1 << 20, write_batch_size=values, use_dictionary=False
)
PY
cat > "$dir/read.py" <<'PY'
import sys

import pyarrow as pa
import pyarrow.parquet as pq

with pq.ParquetFile(sys.argv[1], pre_buffer=False, buffer_size=1 << 16) as source:
    assert next(source.iter_batches(1, use_threads=False)).num_rows == 1
print(round(pa.default_memory_pool().max_memory() / 1e6))
PY

declare -A megabytes
for values in 1024 16; do
  "$dir/venv/bin/python" "$dir/write.py" "$dir/$values.parquet" "$values"
  megabytes[$values]=$("$dir/venv/bin/python" "$dir/read.py" "$dir/$values.parquet")
  echo "write_batch_size=$values: one row takes ${megabytes[$values]} MB"
done
if ((megabytes[1024] < 50 || megabytes[16] > 10)); then
  echo "CHANGED: the size of a page now bounds the memory of a row, or write_batch_size does not" >&2
  exit 1
fi
echo "as stated: a page holds write_batch_size values at least, whatever its size"
