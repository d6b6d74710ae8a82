"""A long wait says what it waits for, a short one says nothing."""

import time

import jax
import numpy as np
import pytest

from rrft_jax.monitoring import compilations, waiting, waits


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(waits, "SECONDS", 0.05)
    monkeypatch.setattr(waits, "_said", {})


def test_a_wait_of_two_seconds_speaks_while_it_lasts(monkeypatch, capsys):
    monkeypatch.undo()
    with waiting("restoring step 4"):
        time.sleep(waits.SECONDS / 2)
        assert capsys.readouterr().err == ""
        time.sleep(waits.SECONDS)
        assert capsys.readouterr().err == "restoring step 4 ...\n"


def test_a_short_wait_is_silent_also_if_it_fails(capsys):
    with pytest.raises(ValueError), waiting("restoring"):
        raise ValueError
    with waiting(""):
        time.sleep(0.1)
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_wait_of_every_step_speaks_once_a_minute(monkeypatch, capsys):
    for again in (60.0, 60.0, 0.0):
        monkeypatch.setattr(waits, "_AGAIN", again)
        with waiting("waiting for the other processes"):
            time.sleep(0.1)
    assert capsys.readouterr().err == 2 * "waiting for the other processes ...\n"


def test_a_slow_compilation_names_its_program(capsys):
    @jax.jit
    def advance(x):
        time.sleep(0.1)  # while it is traced
        return x * 2

    @jax.jit
    def quick(x):
        return x * 2

    compilations.listen()
    for size in (3, 4, 3):
        advance(np.zeros(size))
    said = capsys.readouterr().err.splitlines()
    own = [line for line in said if "advance" in line or "sampler" in line]
    assert [line.partition(",")[0].removesuffix(" ...") for line in own] == 2 * [
        "compiling the sampler's loop"
    ]
    assert ", shape " in own[1]


def test_the_names_of_programs_are_those_of_functions():
    from rrft_jax.hf import weights
    from rrft_jax.models import adapter, int8, vlm
    from rrft_jax.rollout import sampler
    from rrft_jax.training import grpo, sft, tuning

    modules = (weights, adapter, int8, vlm, sampler, grpo, sft, tuning)
    files = [open(module.__file__).read() for module in modules]
    for function in compilations.WORDS:
        assert any(f"def {function}(" in text for text in files), function
