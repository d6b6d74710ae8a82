"""Functions that the guard is to survive."""

import os
import time


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def die(code):
    os._exit(code)


def eat(size):
    return len(bytearray(size))


def broken(completions, example, *, mode="default"):
    return {"raises": lambda: 1 / 0, "short": lambda: [], "nan": lambda: [float("nan")]}[
        completions[0]
    ]()
