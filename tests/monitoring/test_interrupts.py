"""Signals are noted, also while the main thread is outside of Python; the second one ends it."""

import os
import signal
import subprocess
import sys
import time

import pytest

# The hash takes minutes in C, without Python's lock: as compiling does, or waiting for a process.
PROGRAM = """
import hashlib, os, threading, time
from rrft_jax.monitoring import interrupts
interrupts.listen()
interrupts.listen()
if os.fork() == 0:
    os.kill(os.getpid(), 15)  # of the child alone
    os._exit(0)
os.wait()
def watch():
    while not interrupts.requested():
        time.sleep(0.01)
    print("noted", flush=True)
threading.Thread(target=watch, daemon=True).start()
time.sleep(0.2)
print("waits", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_outside_of_python_too_the_first_is_noted_and_the_second_ends_it(number):
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=-1, stderr=-1, text=True
    )
    try:
        assert process.stdout.readline() == "waits\n"
        time.sleep(0.2)
        process.send_signal(number)
        assert process.stdout.readline() == "noted\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1].startswith(f"stopped: {signal.Signals(number).name} again")
