"""Jobs of the threads: begun once, waited for or given up, and no hindrance to the exit."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrft_jax.monitoring import compilations
from rrft_jax.parallel import ahead
from rrft_jax.parallel.ahead import Ahead


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setattr(ahead.os, "cpu_count", lambda: 2)
    return Ahead()


def test_a_job_under_way_is_waited_for_and_one_in_the_queue_is_given_up(one_thread):
    begun, goes_on, done = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        goes_on.wait(60)
        done.append("first")

    one_thread.begin("first", first)
    one_thread.begin("first", lambda: done.append("again"))
    for name in ("second", "given up"):
        one_thread.begin(name, lambda name=name: done.append(name))
    assert begun.wait(60)
    one_thread.finish("second")
    for name in ("first", "given up", "unknown"):
        one_thread.give_up(name)
    threading.Timer(0.1, goes_on.set).start()
    one_thread.finish("first")
    third = threading.Event()
    one_thread.begin("third", third.set)
    one_thread.finish("unknown")
    assert third.wait(60) and done == ["first"]


def test_a_job_that_fails_leaves_the_error_to_the_caller_s_own_call(one_thread):
    one_thread.begin("broken", lambda: 1 / 0)
    one_thread.finish("broken")
    next_one = threading.Event()
    one_thread.begin("next", next_one.set)
    assert next_one.wait(60)


def test_a_program_that_was_compiled_for_shapes_is_not_compiled_again():
    @jax.jit
    def whole(x, y):
        return {"sum": x + y, "product": x @ y}

    @jax.jit
    def half(parts):
        return parts["sum"] / 2

    compilations.listen()
    x = jax.device_put(jnp.ones((4, 4)), jax.devices()[0])
    ahead.result(half, ahead.result(whole, *ahead.shapes((x, x))))
    before = compilations.total("whole"), compilations.total("half")
    assert (np.asarray(half(whole(x, x))) == 1).all()
    assert (compilations.total("whole"), compilations.total("half")) == before == (1, 1)


def test_the_exit_waits_for_no_job_that_has_not_begun():
    code = (
        "import time; from rrft_jax.parallel.ahead import Ahead; threads = Ahead()\n"
        "for i in range(40): threads.begin(i, lambda: (time.sleep(0.5), print('done', flush=True)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0 and ended.stderr == ""
    assert ended.stdout.count("done") <= 8
