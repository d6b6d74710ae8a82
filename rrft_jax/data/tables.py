"""One parquet or Arrow file -> its rows, each read when it is asked for.

Arrow files are mapped into memory, so a row costs the bytes of the row. Parquet has no access to
single rows: one row takes a whole row group, and many programs write a single group for everything.
So a parquet file is unpacked once, a few megabytes at a time, into an Arrow file of the user's
cache, as `datasets` does too.
"""

import bisect
import collections
import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import mmap
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrft_jax.data.pictures import BadSample
from rrft_jax.errors import UserError
from rrft_jax.monitoring import say

_BATCH_BYTES = 4 << 20  # of an unpacked batch: small, because memory holds one while it is written
_MAPPED_BYTES = 64 << 20  # read through the map before its pages are given back to the system
_AROUND_BYTES = 256 << 10  # pages that the system maps around those of a row, at most
_SAID_BYTES = 64 << 20  # a larger file takes seconds to unpack


class Table(Sequence[dict[str, Any]]):
    """The rows of a file as mappings. Threads may share it; another process maps the file again."""

    def __init__(self, file: str):
        """Open a file.

        Raises:
          UserError: it can't be read.
        """
        self.file = file
        self._lock, self._read = threading.Lock(), 0
        source = file
        try:
            if _begins(file, b"PAR1"):
                source = _unpacked(file)
            with open(source, "rb") as opened:
                self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            self._batches = _batches(self._map)
        except UserError:
            raise
        except Exception as error:  # parsers of broken files raise nearly everything
            raise _unreadable(source, error) from None
        self._ends = list(itertools.accumulate(batch.num_rows for batch in self._batches))
        self._row_bytes = [
            batch.nbytes // batch.num_rows + _AROUND_BYTES for batch in self._batches
        ]
        schema = self._batches[0].schema if self._batches else None
        self.columns: tuple[str, ...] = tuple(schema.names) if schema else ()
        self._coarse = _in_microseconds(schema) if schema else {}
        self._classes = _classes(schema.metadata if schema else None)

    def __reduce__(self) -> tuple:
        return Table, (self.file,)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Any:
        """Return a row, or a `BadSample` if its bytes are broken."""
        k = bisect.bisect_right(self._ends, index)
        first = self._ends[k - 1] if k else 0
        row = self._batches[k].slice(index - first, 1)
        try:
            row.validate(full=True)  # a broken file must not point outside of itself
            for number, coarse in self._coarse.items():
                times = row[number].cast(coarse, safe=False)
                row = row.set_column(number, self.columns[number], times)
            (values,) = row.to_pylist()
        except (ValueError, OverflowError) as error:
            return BadSample("malformed", f"its bytes are broken: {error}")
        self._give_back(self._row_bytes[k])
        for name, classes in self._classes.items():
            if isinstance(number := values.get(name), int) and -1 <= number < len(classes):
                values[name] = None if number == -1 else classes[number]  # -1 is no class
        return values

    def some(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield all rows, with only some of their columns; pictures beside them are not read.

        Raises:
          UserError: the bytes of these columns are broken.
        """
        names = [name for name in dict.fromkeys(columns) if name in self.columns]
        if not names:
            yield from ({} for _ in range(len(self)))
            return
        for batch in self._batches:
            try:
                chosen = batch.select(names)
                chosen.validate(full=True)
                rows = chosen.to_pylist()
            except (ValueError, OverflowError, KeyError) as error:
                raise _unreadable(self.file, error) from None
            yield from rows
            self._give_back(chosen.nbytes)

    def _give_back(self, size: int) -> None:
        """Count bytes that were read; from time to time, let the system take their pages."""
        with self._lock:
            self._read += size
            if self._read > _MAPPED_BYTES:
                self._read = 0
                self._map.madvise(mmap.MADV_DONTNEED)


def is_table(file: str) -> bool:
    """Return whether a file is parquet or Arrow, by its first bytes or its name."""
    return file.endswith((".parquet", ".arrow")) or _begins(file, b"PAR1", b"ARROW1")


def _begins(file: str, *marks: bytes) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(8).startswith(marks)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error}") from None


def _batches(mapped: mmap.mmap) -> list[Any]:
    """Return the record batches of an Arrow file or stream; they point into the map."""
    import pyarrow as pa  # takes a while, and only tables need it

    source = pa.BufferReader(pa.py_buffer(mapped))
    if mapped[:6] == b"ARROW1":
        reader = pa.ipc.open_file(source)
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
    else:
        batches = list(pa.ipc.open_stream(source))
    return [batch for batch in batches if batch.num_rows]


def _in_microseconds(schema: Any) -> dict[int, Any]:
    """Return the number of each column of finer times -> the type of the times that Python has."""
    import pyarrow as pa

    types = {}
    for number, field in enumerate(schema):
        if getattr(field.type, "unit", "") != "ns":
            continue
        if pa.types.is_timestamp(field.type):
            types[number] = pa.timestamp("us", field.type.tz)
        else:
            types[number] = (
                pa.duration("us") if pa.types.is_duration(field.type) else pa.time64("us")
            )
    return types


def _classes(metadata: Mapping[bytes, bytes] | None) -> dict[str, Sequence[str]]:
    """Return the names of the classes of each column of class numbers, as `datasets` notes them."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _unpacked(file: str) -> str:
    """Return the Arrow file with the rows of a parquet file; write it if it is not there yet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = os.stat(file)
    key = f"{os.path.realpath(file)} {about.st_size} {about.st_mtime_ns}"
    name = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    out = cache / "rrft_jax" / "tables" / f"{pathlib.Path(file).stem[:80]}-{name}.arrow"
    if out.exists():
        return str(out)
    with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as source:
        groups = map(source.metadata.row_group, range(source.metadata.num_row_groups))
        size, rows = sum(group.total_byte_size for group in groups), source.metadata.num_rows
        if size > _SAID_BYTES:
            say(f"data: {file}: unpacking {size / 1e9:.1f} GB into {out}, once")
        at_once = min(max(1, _BATCH_BYTES * rows // max(1, size)), 65536)
        with _whole(out) as part, pa.ipc.new_stream(part, source.schema_arrow) as writer:
            collections.deque(
                map(writer.write_batch, source.iter_batches(at_once, use_threads=False)), maxlen=0
            )
    # A page of parquet is read whole, and may hold a thousand pictures: its memory is given back.
    pa.default_memory_pool().release_unused()
    return str(out)


@contextlib.contextmanager
def _whole(out: pathlib.Path) -> Iterator[str]:
    """Yield the name of a file to write; it becomes `out` unless an error ends the block."""
    cure = "XDG_CACHE_HOME names another folder for unpacked tables"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out.parent)
        handle, part = tempfile.mkstemp(dir=out.parent, suffix=".part")
    except OSError as error:
        raise UserError(f"{out.parent}: {error}; {cure}") from None
    try:
        with contextlib.suppress(OSError):  # a disk without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield part
        os.replace(part, out)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{out.parent}: no space left; {cure}") from None
        raise
    finally:
        os.close(handle)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def _remove_abandoned(folder: pathlib.Path) -> None:
    """Delete the files that were being written when their process was killed: none locks them."""
    for part in folder.glob("*.part"):
        with contextlib.suppress(OSError), part.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def _unreadable(file: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(
        f"{file}: can't be read as a table: {reason:.200}; copy or write it again, or delete it if "
        "it is an unpacked one"
    )
