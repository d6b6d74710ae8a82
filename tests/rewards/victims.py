"""Functions that the guard is to survive."""

import importlib
import os
import time

import numpy as np


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def die(code):
    os._exit(code)


def eat(size):
    return len(bytearray(size))


class Unspeakable(Exception):
    def __str__(self):
        return 1 / 0


def raise_unspeakable():
    raise Unspeakable


def emptying(completions, example):
    """Changes the list that it is given: what it returns is of the rest."""
    completions[:] = [text for text in completions if text != "b"]
    return [1.0 for _ in completions]


def broken(completions, example):
    """Of groups and single completions alike, by what one of them says."""
    if "raises" in completions:
        raise KeyError("no box")
    if "hangs" in completions:
        time.sleep(60)
    if "dies" in completions:
        os._exit(1)
    special = {"nan": float("nan"), "inf": float("inf"), "none": None, "text": "1", "row": [1.0]}
    return [special.get(text, len(completions)) for text in completions]


def slow(completions, example):
    time.sleep(60)


def odd(completions, example, *, kind):
    """Results of another form than a list."""
    values = [float(len(text)) for text in completions]
    return {
        "list": lambda: values,
        "tuple": lambda: tuple(values),
        "bools": lambda: [value > 1 for value in values],
        "numpy": lambda: np.array(values, np.float16),
        "numpy scalars": lambda: list(np.array(values)),
        "jax": lambda: importlib.import_module("jax.numpy").array(values),
        "None": lambda: None,
        "one number": lambda: 1.0,
        "one numpy number": lambda: np.float32(1),
        "text": lambda: "1" * len(values),
        "short": lambda: [0.5],
        "long": lambda: [*values, 1.0],
        "column": lambda: np.array(values)[:, None],
        "matrix": lambda: np.zeros((len(values), len(values))),
        "dict": lambda: dict(zip(completions, values)),
        "generator": lambda: (value for value in values),
        "coroutine": lambda: waits(completions, example),
    }[kind]()


def relative(completions, example, *, lengths=None):
    """Of a group: how much shorter than the longest."""
    if "raises" in completions:
        raise KeyError("no box")
    return [float(max(lengths) - length) for length in lengths]


def only_alone(completions, example):
    return [len(completions[0]) / (len(completions) == 1)]


def boxes(completions, example):
    """Gives each completion the number of the row's boxes."""
    return [float(len(example.extra["boxes"])) for _ in completions]


def pairs(completions, example):
    """Breaks on two completions of a group, and on one of them alone."""
    if len(completions) > 1 or "raises" in completions:
        raise KeyError("no box")
    return [1.0]


def of_row(completions, example, *, column="boxes"):
    """Reads a column of the row, and breaks where a text has no number."""
    return [float(int(text) in example.extra[column]) for text in completions]


async def waits(completions, example):
    return [0.0 for _ in completions]


def yields(completions, example):
    yield from map(len, completions)


class Waits:
    async def __call__(self, completions, example):
        return [0.0 for _ in completions]


waits_too = Waits()
