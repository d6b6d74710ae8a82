"""One run has a folder at a time; what a killed one left is told from one that lives."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rrft_jax import lock, main
from rrft_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
EVAL = f"--config={ROOT}/configs/eval.py"
# A run that has its folder until it is killed; or says why not.
PROGRAM = """
import pathlib, sys, time
from rrft_jax import errors, lock
lock.BEAT_SECONDS = 0.2
try:
    with lock.held(pathlib.Path(sys.argv[1])):
        print("has it", flush=True)
        time.sleep(100)
except errors.UserError as error:
    print(f"error: {error}", flush=True)
"""


@contextlib.contextmanager
def another(folder, *wrap):
    """A process that tries to have the folder: (it, its first line)."""
    command = [*wrap, sys.executable, "-c", PROGRAM, folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True)
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def write(folder, **fields):
    """What a run of this machine left that was killed, but for some fields."""
    with another(folder) as (process, line):
        assert line == "has it\n"
    owner = json.loads((folder / "lock").read_text()) | fields
    (folder / "lock").write_text(json.dumps(owner))
    return owner


def elsewhere(**fields):
    return {"host": "b", "place": {"boot": "other", "namespace": "pid:[1]"}, **fields}


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 1)


@pytest.fixture(params=["flock", "no flock"])
def disk(request, monkeypatch):
    """A disk that can lock files, and one that can't."""
    if request.param == "no flock":

        def refuse(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(fcntl, "flock", refuse)
    return request.param


def test_the_second_is_refused_with_the_first_one_s_host_and_process(tmp_path, disk):
    with another(tmp_path) as (process, line):
        assert line == "has it\n"
        owner = json.loads((tmp_path / "lock").read_text())
        since = time.monotonic()
        with pytest.raises(UserError) as error, lock.held(tmp_path):
            pass
    assert time.monotonic() - since < 1
    assert f"process {process.pid} on {owner['host']} (since {owner['since']})" in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}: ") and "--workdir" in str(error.value)


def test_of_two_at_once_one_has_it(tmp_path):
    with another(tmp_path) as (_, first), another(tmp_path) as (_, second):
        assert first == "has it\n" and second.startswith("error: ")


@pytest.mark.parametrize("made", [False, True])
def test_it_goes_with_the_run_and_an_empty_folder_that_it_made_too(tmp_path, made):
    folder = tmp_path / "a" / "b"
    if made:
        folder.mkdir(parents=True)
    for failure in (None, UserError("no"), KeyboardInterrupt()):
        with contextlib.suppress(UserError, KeyboardInterrupt), lock.held(folder):
            assert (folder / "lock").exists()
            if failure:
                raise failure
        assert not (folder / "lock").exists() and folder.exists() == made
    with lock.held(folder):
        (folder / "config.json").touch()
    assert [file.name for file in folder.iterdir()] == ["config.json"]


def test_what_a_killed_run_of_this_machine_left_is_no_obstacle(tmp_path, disk, capfd):
    write(tmp_path)
    since = time.monotonic()
    with lock.held(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert time.monotonic() - since < 0.5 and capfd.readouterr().err == ""


def test_a_process_id_that_is_another_one_s_by_now_is_no_obstacle(tmp_path, disk):
    write(tmp_path, pid=os.getppid())
    with lock.held(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_container_of_this_machine_that_was_killed_is_no_obstacle_where_locks_work(tmp_path):
    here = lock._place()
    write(tmp_path, pid=1, place={"boot": here["boot"], "namespace": "pid:[1]"})
    since = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - since < 0.5


@pytest.mark.parametrize("place", ["machine", "container", "mount"])
def test_a_run_that_can_not_be_asked_is_refused_while_it_lives(tmp_path, place, monkeypatch):
    """Its file changes; no lock of its own is seen, its clock is another one."""
    owner = write(tmp_path, **elsewhere(pid=1, since="2001-01-01 00:00:00+00:00"))
    if place != "machine":
        owner["place"]["boot"] = lock._place()["boot"]
        owner["device"] = -1
    (tmp_path / "lock").write_text(json.dumps(owner))
    os.utime(tmp_path / "lock", (0, 0))
    beat = "import sys,time\ntime.sleep(.5)\nopen(sys.argv[1],'r+').write(sys.argv[2])"
    owner["beats"] += 1
    command = [sys.executable, "-c", beat, str(tmp_path / "lock"), json.dumps(owner)]
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 20)
    with subprocess.Popen(command):
        since = time.monotonic()
        with pytest.raises(UserError, match=r"process 1 on b \(since 2001"), lock.held(tmp_path):
            pass
        assert time.monotonic() - since < 10


def test_one_that_can_not_be_asked_and_gives_no_sign_of_life_is_waited_for_and_that_is_said(
    tmp_path, disk, capfd
):
    write(tmp_path, **elsewhere(pid=1))
    os.utime(tmp_path / "lock", (4e9, 4e9))  # a clock that goes before
    since = time.monotonic()
    with lock.held(tmp_path):
        assert 1 <= time.monotonic() - since < 3
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "process 1 on b" in said
    assert f"{tmp_path}/lock" in said and "within 1 s" in said and "delete that file" in said


def test_without_the_file_a_waiting_run_goes_on_at_once(tmp_path, monkeypatch):
    write(tmp_path, **elsewhere())
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 60)
    with subprocess.Popen(["sh", "-c", f"sleep 0.5; rm {tmp_path}/lock"]):
        since = time.monotonic()
        with lock.held(tmp_path):
            assert time.monotonic() - since < 10


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "\0" * 300, '{"pid": "x", "place": 3}'])
def test_a_file_that_says_nothing_is_no_obstacle_for_long(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with lock.held(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_run_whose_folder_another_one_took_over_ends(tmp_path):
    """As one that was frozen for longer than the other one waited."""
    with another(tmp_path) as (process, line):
        assert line == "has it\n"
        process.send_signal(signal.SIGSTOP)
        owner = json.loads((tmp_path / "lock").read_text())
        (tmp_path / "lock").write_text(json.dumps(owner | {"token": "x", "pid": 7}))
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1 and errors.count("\n") == 1
    assert "process 7 on " in errors and "has taken it over" in errors
    assert json.loads((tmp_path / "lock").read_text())["token"] == "x"


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match="can't hold a run"), lock.held(folder):
            pass


def test_a_run_is_refused_before_a_model_is_looked_for(tmp_path, capsys):
    with another(tmp_path):
        command = [EVAL, "--config.model.path=nowhere", f"--workdir={tmp_path}"]
        assert main.main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}: process ") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "lock"]
