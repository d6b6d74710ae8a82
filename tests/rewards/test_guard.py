"""Hostile text: nothing hangs, nothing raises, nothing leaks; what fails is counted."""

import functools
import resource
import subprocess
import sys
import time
import types

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrft_jax import evaluation, rewards
from rrft_jax.rewards import guard
from rrft_jax.tasks import TASKS
from tests.rewards.hostile import TEXTS

ANSWERS = ("4", "A", "0", "nan", r"2\sqrt{3}", "change_color(1, 'red')")


VICTIMS = "tests.rewards.victims"


@pytest.fixture(autouse=True)
def impatient():
    """Half a second, for most of the time here is spent on texts that never end."""
    with guard.limit(0.5):
        yield


def test_results_come_in_order_and_failures_are_none_and_counted():
    before = guard.failures()
    assert guard.call("math.sqrt", [(4,), (-1,), ("x",), (9,)]) == [2, None, None, 3]
    assert guard.failures() - before == 2


def test_a_call_that_hangs_or_dies_costs_only_its_own_time():
    guard.call("math.sqrt", [(4,)] * 8)  # workers are up
    before, began = guard.failures(), time.monotonic()
    assert guard.call(f"{VICTIMS}.sleep", [(0,), (60,), (0.01,)]) == [0, None, 0.01]
    assert guard.call(f"{VICTIMS}.die", [(1,)]) == [None]
    assert guard.call("math.sqrt", [(4,)]) == [2]
    assert guard.failures() - before == 2
    assert time.monotonic() - began < 50


def test_a_call_gets_no_more_than_its_memory():
    assert guard.call(f"{VICTIMS}.eat", [(1 << 20,), (16 << 30,)]) == [1 << 20, None]


def test_a_forked_process_has_workers_of_its_own():
    program = """
import os, sys, types
from rrft_jax import rewards
ask = lambda: rewards.score("accuracy", ["It's 4.", "It's 5."], types.SimpleNamespace(answer="4"))
ask()
child = os.fork()
right = all(ask() == [1, 0] for _ in range(20))
if not child:
    sys.exit(not right)  # which ends its workers, and not its parent's
print(right, os.waitpid(child, 0)[1], ask(), rewards.failures())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "True 0 [1.0, 0.0] 0\n", done.stderr


def test_a_long_multiplication_is_ended():
    assert guard.call("builtins.pow", [(9, 9**9)]) == [None]


@pytest.mark.parametrize("mode", rewards.MODES)
@pytest.mark.parametrize("name", rewards.names())
@guard.limit(0.2)  # none of them is right, so none needs longer
def test_hostile_text_neither_raises_nor_hangs(name, mode):
    example = types.SimpleNamespace(answer="5")
    began = time.monotonic()
    values = rewards.score(name, list(TEXTS.values()), example, mode=mode, step=1000)
    for label, value in zip(TEXTS, values, strict=True):
        if not (mode == "reference" and label == "nan"):  # one of the defects that it reproduces
            assert -1 <= value <= 1, label
        if "accuracy" in name and label != "nan":
            assert value == 0, label
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("mode", rewards.MODES)
@guard.limit(0.2)
def test_evaluation_survives_hostile_text(mode):
    for label in ("power tower", "unclosed answers", "a megabyte of spaces", "surrogates"):
        for task in TASKS:
            assert evaluation.score(task, TEXTS[label], "5", mode=mode) == 0


def test_a_failure_says_how_and_where():
    raised, ended = guard.run(f"{VICTIMS}.sleep", [("x",), (60,)])
    assert raised.reason.startswith("TypeError: ") and not raised.timed_out
    assert "in sleep\n" in raised.traceback and "worker.py" not in raised.traceback
    assert ended.reason == "took longer than its time limit, 0.5 s" and ended.timed_out
    (died,) = guard.run(f"{VICTIMS}.die", [(1,)])
    assert "died" in died.reason and not died.timed_out
    (unspeakable,) = guard.run(f"{VICTIMS}.raise_unspeakable", [()])
    assert "Unspeakable" in unspeakable.reason


# Pieces that parsers care about, and anything at all.
PIECES = st.sampled_from(
    r"<think> </think> <answer> </answer> <summary> </summary> \boxed{ \frac{ \sqrt{ ".split()
    + r"\text{ { } ( ) [ ] $ ^ ! _ \ 4 0.5 9999 1/0 -1 , . : ' f(1,'a') g(2,B) (B) B x nan".split()
    + ["\n", " ", "**", "inf", "e9", "%", "°"]
)
ANYTHING = st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join)
COMPARED = ("accuracy", "math_accuracy", "length")  # by math-verify, if need be
relaxed = functools.partial(settings, deadline=None, suppress_health_check=list(HealthCheck))


@relaxed(max_examples=400)
@given(
    st.lists(ANYTHING, min_size=20, max_size=20),
    st.sampled_from(ANSWERS),
    st.sampled_from(rewards.MODES),
)
def test_any_text_has_a_value_and_always_the_same(texts, answer, mode):
    example = types.SimpleNamespace(answer=answer)
    for name in rewards.names():
        group = [f"<answer>{text}</answer>" for text in texts] if name in COMPARED else texts
        values = rewards.score(name, group * 2, example, mode=mode, step=1000)
        for value, again in zip(values[:20], values[20:], strict=True):
            assert value == again or value != value
            assert -1 <= value <= 1 or (mode == "reference" and value != value)


@relaxed(max_examples=40)
@given(st.lists(ANYTHING, min_size=50, max_size=50), st.sampled_from(ANSWERS))
def test_math_verify_sees_any_text_and_nothing_gets_out(texts, answer):
    for value in rewards.score("accuracy", texts, types.SimpleNamespace(answer=answer)):
        assert value in (0, 1)


@guard.limit(0.1)
def test_memory_stays_flat():
    example = types.SimpleNamespace(answer="5")

    def pass_over():
        for name in rewards.names():
            rewards.score(name, [TEXTS["a megabyte"], TEXTS["a megabyte of words"]], example)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    first = [pass_over() for _ in range(2)][-1]
    assert [pass_over() for _ in range(3)][-1] < first + 20_000  # KiB
