"""Programs are kept on the disk and found again; a place that is no good costs a line, no run."""

import os
import resource
import stat
import warnings
import zlib

import jax
import jax.numpy as jnp
import pytest
from filelock import FileLock
from jax.experimental.compilation_cache import compilation_cache

from rrft_jax import compiled
from rrft_jax.monitoring import compilations

OPTIONS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)
VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
ENTRY = "jit_program-*-cache"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """As in a process whose user has set nothing."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    compilations.listen()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_one(factor: float = 3.0) -> bool:
    """Compile a new function of known content, and say whether it came from the disk."""

    @jax.jit
    def program(x):
        return x * factor + 1

    x = jnp.ones(5)
    before = compilations.total("program"), compilations.kept("program")
    assert float(program(x)[0]) == factor + 1
    after = compilations.total("program"), compilations.kept("program")
    assert after[0] == before[0] + 1
    return after[1] > before[1]


def test_runs_side_by_side_share_their_programs(tmp_path):
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one() and compile_one()
    compiled.keep_beside(tmp_path / "two")
    assert compile_one()
    assert len(list((tmp_path / "compiled").glob(ENTRY))) == 1
    assert compiled.summary().endswith(f" came from {tmp_path / 'compiled'}")
    compiled.keep_beside(tmp_path / "elsewhere" / "one")
    assert not compile_one()


def test_a_folder_that_the_user_names_is_taken_and_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))  # as JAX does at import
    compilation_cache.reset_cache()
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one() and compile_one()
    assert [file.name for file in tmp_path.iterdir()] == ["own"]
    assert not list((tmp_path / "own").glob("*-atime"))  # has no bound, as JAX's default is


def test_nothing_is_kept_where_jax_s_cache_is_off(tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one() and not compile_one() and compiled.summary() == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("problem", ["a file", "writable by all"])
def test_a_folder_that_is_no_good_costs_a_line(tmp_path, capsys, problem):
    folder = tmp_path / "compiled"
    if problem == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one() and not compile_one() and compiled.summary() == ""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"compiled programs are not kept in {folder} (")
    assert "JAX_COMPILATION_CACHE_DIR" in line


def test_a_new_folder_is_written_by_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        compiled.keep_beside(tmp_path / "one")
    finally:
        os.umask(before)
    assert not stat.S_IMODE((tmp_path / "compiled").stat().st_mode) & 0o022
    assert not compile_one() and compile_one()


def test_what_a_killed_process_has_half_written_is_written_again(tmp_path):
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one(3) and not compile_one(4)
    folder = tmp_path / "compiled"
    half, whole = folder.glob(ENTRY)
    half.write_bytes(half.read_bytes()[:100])
    half.with_name(half.name.removesuffix("-cache") + "-atime").unlink()
    compiled.keep_beside(tmp_path / "one")
    assert not half.exists() and whole.exists()
    assert sorted([compile_one(3), compile_one(4)]) == [False, True]
    assert compile_one(3) and compile_one(4)


def test_an_empty_program_is_written_again(tmp_path, capsys):
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one(3)
    (empty,) = (tmp_path / "compiled").glob(ENTRY)
    empty.write_bytes(b"")
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one(3) and compile_one(3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", [b"no program", b"\0" * 999, "half", "another program's"])
def test_a_damaged_program_is_said_once_and_written_again(tmp_path, capsys, damage):
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one(3) and not compile_one(4)
    for file in (tmp_path / "compiled").glob(ENTRY):
        whole = file.read_bytes()
        halves = {"half": whole[: len(whole) // 2], "another program's": zlib.compress(b"ABCDEF")}
        file.write_bytes(halves.get(damage, damage))
    assert not compile_one(3) and not compile_one(4)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: Error reading") and line.endswith("compiled and written again")
    assert compile_one(3) and compile_one(4)
    assert capsys.readouterr().err == ""


def test_of_a_damaged_program_in_a_folder_of_the_user_the_line_names_the_files(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    compilation_cache.reset_cache()
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one(3)
    (file,) = (tmp_path / "own").glob(ENTRY)
    file.write_bytes(b"no program")
    assert not compile_one(3) and not compile_one(3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"; delete {tmp_path / 'own'}/jit_program-*, or it is compiled each time")
    assert file.read_bytes() == b"no program"


def test_a_folder_that_is_locked_loses_no_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "_LOCK_SECONDS", 0.01)
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one(3) and compile_one(3)
    cache = jax._src.compilation_cache._cache
    monkeypatch.setattr(cache, "lock_timeout_secs", 0.01)
    with FileLock(tmp_path / "compiled" / ".lockfile"):
        assert not compile_one(3)
    assert compile_one(3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: Error reading") and "Timeout" in line


def test_a_full_disk_costs_a_line(tmp_path, capsys):
    compiled.keep_beside(tmp_path / "one")
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # bytes of a file
    try:
        assert not compile_one(3) and not compile_one(4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: Error writing")


def test_a_folder_does_not_outgrow_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "MAX_BYTES", 10_000)
    compiled.keep_beside(tmp_path / "one")
    for factor in range(10):
        compile_one(factor)
    sizes = [file.stat().st_size for file in (tmp_path / "compiled").glob("*-cache")]
    assert 0 < sum(sizes) <= 10_000 and len(sizes) < 10
    assert compile_one(9) and not compile_one(0)


def test_the_other_processes_of_a_run_read_without_a_lock(tmp_path):
    compiled.keep_beside(tmp_path / "one")
    assert not compile_one()
    for file in tmp_path.glob("compiled/.lockfile"):
        file.unlink()
    compiled.keep_beside(tmp_path / "one", first=False)
    assert compile_one() and not (tmp_path / "compiled" / ".lockfile").exists()
