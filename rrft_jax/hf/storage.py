"""Files of a checkpoint's folder, on a disk or at a URL, read by ranges of bytes.

gs://, s3://, http:// and https:// go through tensorstore. It needs no other installation, and
finds credentials where the clouds' own tools keep them. No file of weights is ever copied whole.
"""

import atexit
import collections
import functools
import json
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore

from rrft_jax.errors import UserError

Path = str | os.PathLike

_RANGE = 2**23  # bytes of a request
_REQUESTS = 8  # at the same time
_SCHEMES = ("gs", "s3", "http", "https")
# Wait for a busy server, but not for minutes, as tensorstore does by default.
_RETRIES = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "8s"}


def is_url(path: Path) -> bool:
    """Say whether a path is a URL."""
    return "://" in str(path)


def join(folder: Path, name: str) -> str:
    """Return the path or URL of a file in a folder."""
    return f"{str(folder).rstrip('/')}/{name}"


class File:
    """One file, open to be read in ranges. Threads can share it.

    Raises:
      FileNotFoundError: the file isn't there; for a URL the first read raises it.
    """

    def __init__(self, folder: Path, name: str):
        self.path = join(folder, name)
        self.remote = is_url(folder)
        if self.remote:
            self._store, self._key = _store(str(folder)), name
        else:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    @property
    def size(self) -> int | None:
        """The size in bytes of a file on a disk; None for a URL."""
        return None if self.remote else os.fstat(self._descriptor).st_size

    def read(self, begin: int, end: int) -> bytes:
        """Return the bytes from `begin` to before `end`.

        Raises:
          EOFError: the file ends before `end`.
        """
        out = np.empty(end - begin, np.uint8)
        self.read_into(out, begin)
        return out.tobytes()

    def read_into(self, out: np.ndarray, begin: int) -> None:
        """Fill a contiguous array of bytes with the file's bytes from `begin` on.

        Raises:
          EOFError: the file ends before the array is full.
        """
        if self.remote:
            return self._request_into(out, begin)
        done = 0
        while done < len(out):  # one call reads 2 GiB at most
            count = os.preadv(self._descriptor, [out[done:]], begin + done)
            if not count:
                raise EOFError(f"{self.path} ends at byte {begin + done}")
            done += count

    def _request_into(self, out: np.ndarray, begin: int) -> None:
        waiting = collections.deque()
        for start in range(0, len(out) + _RANGE * _REQUESTS, _RANGE):
            if start < len(out):
                stop = min(start + _RANGE, len(out))
                part = slice(begin + start, begin + stop)
                waiting.append((start, self._store.read(self._key, byte_range=part)))
            while waiting and (len(waiting) == _REQUESTS or start >= len(out)):
                place, future = waiting.popleft()
                data = np.frombuffer(_value(self.path, future), np.uint8)
                if len(data) != min(_RANGE, len(out) - place):
                    raise EOFError(f"{self.path} ends before byte {begin + place + _RANGE}")
                out[place : place + len(data)] = data


def read(folder: Path, name: str) -> bytes | None:
    """Return the whole content of a small file; None if there is no such file."""
    try:
        if is_url(folder):
            return _value(join(folder, name), _store(str(folder)).read(name))
        return (pathlib.Path(folder) / name).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def json_object(content: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
      content: the content of a file.
      where: the file's name, for the error.

    Raises:
      UserError: the content isn't a JSON object.
    """
    try:
        value = json.loads(content)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


@functools.cache
def copied(folder: str, names: Sequence[str]) -> pathlib.Path:
    """Copy some files of a folder at a URL to a temporary folder, deleted with the process."""
    local = pathlib.Path(tempfile.mkdtemp(prefix="rrft_jax-"))
    atexit.register(shutil.rmtree, local, ignore_errors=True)
    for name in names:
        content = read(folder, name)
        if content is not None:
            (local / name).write_bytes(content)
    return local


@functools.cache
def _store(folder: str) -> tensorstore.KvStore:
    scheme = folder.partition("://")[0]
    if scheme not in _SCHEMES:
        known = ", ".join(f"{one}://" for one in _SCHEMES)
        raise UserError(f"{folder}: {scheme}:// is not read; expected {known}, or a folder's path")
    retries = {f"{service}_request_retries": _RETRIES for service in ("gcs", "s3", "http")}
    try:
        return tensorstore.KvStore.open(
            folder.rstrip("/") + "/", context=tensorstore.Context(retries)
        ).result()
    except ValueError as error:
        raise UserError(f"{folder}: not a folder's URL ({_reason(error)})") from None


def _value(path: str, future: tensorstore.Future) -> bytes:
    try:
        result = future.result()
    except Exception as error:  # tensorstore raises many types, depending on the driver
        if "OUT_OF_RANGE" in str(error):
            raise EOFError(f"{path}: {_reason(error)}") from None
        raise UserError(
            f"{path}: can't be read ({_reason(error)}); see that this machine reaches it and may "
            "read it"
        ) from None
    if result.state != "value":
        raise FileNotFoundError(path)
    return result.value


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
