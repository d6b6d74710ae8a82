"""Processes that meet: a number that comes twice is refused in a line, and a signal ends all."""

import re
import signal
import socket
import threading
import time

import pytest

from rrft_jax.errors import UserError
from rrft_jax.parallel.rollcall import RollCall
from tests.parallel import runs

# As `main` does it; JAX_ALONE leaves the roll call out, as where machines find each other.
PROGRAM = """
import os, sys, time
from rrft_jax.errors import UserError
from rrft_jax.monitoring import interrupts
interrupts.listen()
from rrft_jax.parallel import distributed, rollcall
if "JAX_ALONE" in os.environ:
    rollcall.RollCall.attend = lambda self: None
print("waits", flush=True)
try:
    with interrupts.at_once("waiting for the other processes"):
        distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
except UserError as error:
    sys.exit(f"error: {error}")
print("met", flush=True)
while not interrupts.requested():
    distributed.gather(0)
    time.sleep(0.05)
print("saved", flush=True)
os._exit(0)
"""


def start(logs, port, number, *process_ids):
    """Processes with these numbers, one after the other; each has said that it waits."""
    processes = []
    for i, process_id in enumerate(process_ids):
        folder = logs / str(i)
        program = ["-c", PROGRAM, f"127.0.0.1:{port}", str(number), str(process_id)]
        processes += runs.launch(1, program, folder)
        until(folder, "waits")
    return processes


def until(folder, text):
    deadline = time.monotonic() + 60
    while text not in (folder / "0.txt").read_text():
        assert time.monotonic() < deadline, (folder / "0.txt").read_text()
        time.sleep(0.02)


def ended(process, folder):
    process.wait(60)
    return (folder / "0.txt").read_text()


@pytest.fixture
def roll():
    """`roll(number, process_id)` attends in a thread: what it ended with, once it has."""
    port, threads = runs.free_port(), []

    def make(number, process_id):
        done = []

        def attend():
            try:
                RollCall(f"127.0.0.1:{port}", number, process_id).attend()
                done.append("")
            except UserError as error:
                done.append(str(error))

        threads.append(threading.Thread(target=attend, daemon=True))
        threads[-1].start()
        time.sleep(0.3)
        return done

    make.port = port
    return make


@pytest.mark.parametrize("twice", [0, 1])
def test_a_number_that_comes_twice_is_refused_and_the_others_meet(roll, twice):
    first = roll(3, 0)
    second = roll(3, 1)
    again = roll(3, twice)
    assert again and not first and not second
    if twice:
        assert re.match(r"--process_id=1: process \d+ on \S+ has come with it already;", again[0])
    else:
        assert f"port {roll.port} is in use here" in again[0]
    third = roll(3, 2)
    assert first == [""]
    # As JAX does, which the others wait for.
    with socket.create_server(("127.0.0.1", roll.port)):
        time.sleep(0.5)
        assert second == third == [""]


def test_processes_that_count_differently_are_refused(roll):
    roll(2, 0)
    assert roll(3, 1) == ["--num_processes=3: process 0 says 2; give all the same"]


def test_one_that_leaves_makes_room_and_what_is_no_process_is_passed_over(roll):
    first = roll(3, 0)
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b'{"process_id": "1"}\n', b""):
        with socket.create_connection(("127.0.0.1", roll.port)) as stranger:
            stranger.sendall(data)
    with socket.create_connection(("127.0.0.1", roll.port)) as one:
        one.sendall(b'{"process_id": 1, "num_processes": 3, "pid": 5, "host": "a"}\n')
        time.sleep(0.2)
    time.sleep(0.2)
    roll(3, 1)
    assert not first
    roll(3, 2)
    assert first == [""]


def test_a_run_goes_on_when_one_comes_to_it_with_a_number_that_is_taken(tmp_path):
    port = runs.free_port()
    processes = start(tmp_path, port, 2, 0, 1)
    try:
        until(tmp_path / "0", "met")
        (late,) = start(tmp_path / "late", port, 2, 1)
        output = ended(late, tmp_path / "late" / "0")
        assert late.returncode == 1 and output.count("\n") == 2, output
        assert "the processes of the run there have met already" in output
        assert all(one.poll() is None for one in processes)
        processes[1].send_signal(signal.SIGTERM)  # from the meeting on: noted, and acted on
        assert "saved" in ended(processes[1], tmp_path / "1")
        assert processes[1].returncode == 0
    finally:
        for one in processes:
            one.kill()
            one.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("process_id", [0, 1])
@pytest.mark.parametrize("alone", [True, False], ids=["in JAX", "in the roll call"])
def test_a_signal_while_they_meet_ends_a_process_at_once(
    alone, process_id, number, tmp_path, monkeypatch
):
    if alone:
        monkeypatch.setenv("JAX_ALONE", "1")
    (process,) = start(tmp_path, runs.free_port(), 2, process_id)
    time.sleep(1)  # it waits in C++ by now
    since = time.monotonic()
    process.send_signal(number)
    output = ended(process, tmp_path / "0")
    assert time.monotonic() - since < 2
    assert process.returncode == 128 + number
    name = signal.Signals(number).name
    assert output.splitlines() == [
        "waits",
        f"stopped: {name} while waiting for the other processes",
    ]
