"""Compiled programs on the disk, from which the next start of a run takes them.

JAX's persistent compilation cache does the work. A run keeps its programs in `compiled`, beside its
own folder, so runs that stand side by side share them. JAX's key of a program has its code, its
shapes, the versions, and the features of the processor or accelerator. So a program is never taken
by a machine that it does not suit.
"""

import contextlib
import os
import pathlib
import re
import warnings
from typing import Any

import jax
from filelock import FileLock, Timeout
from jax.experimental.compilation_cache import compilation_cache

from rrft_jax.monitoring import compilations, say

NAME = "compiled"
MAX_BYTES = 4 * 2**30  # of a folder; the programs that were used last stay
_LOCK_SECONDS = 10.0  # JAX waits as long for a program
_BY_OTHERS = 0o002  # a folder's permission that lets anybody write
_UNREAD = re.compile(r"Error reading persistent compilation cache entry for '(\w+)': (\w+)")
_NOT_THE_FILE = ("Timeout", "PermissionError", "OSError")  # errors of a place, not of a program

_tidied: pathlib.Path | None = None  # the folder that this process may tidy


def keep_beside(run: pathlib.Path, first: bool = True) -> None:
    """Take programs from `compiled` beside a run's folder, and keep new ones there.

    JAX's variables have priority: JAX_COMPILATION_CACHE_DIR names another place, and
    JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing. A place that can't be used costs a line, and then
    every program is compiled as it would be without a cache. A program is code, so a folder in
    which anybody may write is not used, nor is one of another user.

    Args:
      run: the folder of a run. It need not be there yet.
      first: whether this is the first process of its run. JAX lets this one alone write programs.
    """
    global _tidied
    _tidied = None
    _tell_once()
    if not jax.config.jax_enable_compilation_cache:
        return
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # Small programs are many: together they take as long as a large one.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = run.absolute().parent / NAME
    try:
        _make(folder)
        if first:
            _tidy(folder)
            _tidied = folder
    except (OSError, Timeout) as error:
        say(
            f"compiled programs are not kept in {folder} ({error}); JAX_COMPILATION_CACHE_DIR "
            "names another folder"
        )
        return
    # JAX needs a lock to bound a folder. The processes that only read do without: a thousand of
    # them would wait for each other.
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES if first else -1)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # JAX reads these settings once


def summary() -> str:
    """Return a line on the programs of this process; "" if there is no cache."""
    folder = jax.config.jax_compilation_cache_dir
    if not (folder and jax.config.jax_enable_compilation_cache):
        return ""
    kept, programs = compilations.kept(), compilations.total()
    return f"compiled programs: {kept} of {programs} came from {folder}"


def _make(folder: pathlib.Path) -> None:
    """Make the folder if it is missing.

    Raises:
      OSError: it can't be made, or it is not this user's own.
    """
    folder.mkdir(0o755, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid not in (os.getuid(), 0):
        raise PermissionError("it belongs to another user")
    if found.st_mode & _BY_OTHERS:
        raise PermissionError("anybody may write there")
    if not os.access(folder, os.W_OK):
        raise PermissionError("it can't be written")


def _tidy(folder: pathlib.Path) -> None:
    """Delete what a process has left that was killed while it wrote a program, or a machine.

    JAX would neither read such a file nor replace it, and could keep no further program. It writes
    the time of a program last, so half a program has none. A machine that loses its power may leave
    empty files.
    """
    with FileLock(folder / ".lockfile", timeout=_LOCK_SECONDS):
        for kept, time in (("-cache", "-atime"), ("-atime", "-cache")):
            for file in folder.glob(f"*{kept}"):
                other = file.with_name(file.name.removesuffix(kept) + time)
                if not other.exists() or (kept == "-cache" and not file.stat().st_size):
                    file.unlink()


def _forget(folder: pathlib.Path, name: str) -> None:
    """Delete all programs of a name, so that JAX writes them again."""
    with FileLock(folder / ".lockfile", timeout=_LOCK_SECONDS):
        for file in folder.glob(f"{name}-*"):
            file.unlink()


def _tell_once() -> None:
    """Say once that programs can't be read or kept, where JAX would warn of each one.

    JAX would neither read a damaged program nor replace it. So it is deleted, where that is ours.
    """
    show = warnings.showwarning
    if getattr(show, "tells_once", False):
        return
    told = False

    def tell(message: Warning | str, *where: Any, **more: Any) -> None:
        nonlocal told
        if "persistent compilation cache entry" not in str(message):
            show(message, *where, **more)
            return
        found = _UNREAD.match(str(message))
        cure = "programs that can't be read or kept are compiled each time"
        if found and found[2] not in _NOT_THE_FILE:
            folder = jax.config.jax_compilation_cache_dir
            cure = f"delete {folder}/{found[1]}-*, or it is compiled each time"
            if _tidied:
                with contextlib.suppress(OSError):  # then the next start tries again
                    _forget(_tidied, found[1])
                    cure = "programs of this name are compiled and written again"
        if not told:
            told = True
            say(f"warning: {message}; {cure}")

    tell.tells_once = True
    warnings.showwarning = tell
