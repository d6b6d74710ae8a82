"""Rows of text alone that teach to look back in a text: to copy, to find, to compare.

Without that skill a model can't use a question's options and lists of objects. A small model learns
it only from text in which most tokens follow from earlier tokens: some hundred steps of repeated
random words, as for induction heads (https://arxiv.org/abs/2209.11895). After these come lists to
look up in, and written sums, which need no picture.
"""

from collections.abc import Callable

import numpy as np

from rrft_jax.pretrain.lessons import pick, random_sum
from rrft_jax.tasks.drawings import structure, transformation

Piece = tuple[str, bool]  # a text, and whether it carries loss


def row(rng: np.random.Generator, encode: Callable, words: np.ndarray, length: int, lists: float):
    """Return `length` tokens, and a mask of the tokens that carry loss.

    Args:
      rng: the source of all random choices.
      encode: text -> tokens.
      words: the tokens that random sequences are made of.
      length: the number of tokens.
      lists: the share of rows with lists to look up in, and sums; the others are repetitions.
    """
    if rng.random() >= lists:
        tokens, asked = pick(rng, (_repeated, _pairs))(rng, words, length)
    else:
        write = pick(rng, (_options, _options, _objects, _objects, _changes, _sums, _sums))
        tokens, asked = [], []
        while len(tokens) < length:
            for text, loss in write(rng):
                piece = encode(text)
                tokens += piece
                asked += [loss] * len(piece)
    return np.array(tokens[:length], np.int32), np.array(asked[:length], bool)


def _repeated(rng, words: np.ndarray, length: int):
    """Return a repeated random sequence; from its second time on it is predictable."""
    period = int(rng.integers(4, length // 2))
    pool = rng.choice(words, int(rng.integers(4, 200)))  # few, so that one word repeats
    tokens = np.resize(rng.choice(pool, period), length)
    return tokens, np.arange(length) > period


def _pairs(rng, words: np.ndarray, length: int):
    """Return lists of names with values, each list in another order.

    The values are predictable from the second list on.
    """
    number = int(rng.integers(3, 9))
    names = rng.choice(words, number, replace=False)
    values = [rng.choice(words, int(rng.integers(1, 4))) for _ in names]
    tokens, asked, known = [], [], False
    while len(tokens) < length:
        for i in rng.permutation(number):
            tokens += [names[i], *values[i]]
            asked += [False] + [known] * len(values[i])
        known = True
    return tokens, asked


def _options(rng) -> list[Piece]:
    """Return a question's options, then the letters of some values, or the values of letters."""
    step = pick(rng, (0.5, 1, 1, 5))
    start = step * rng.integers(1, 30)
    close = start + step * np.arange(8)  # like real options, which often differ in one digit
    values = [f"{v:g}" for v in rng.choice(close, 4, replace=False)]
    marked = [f"({letter}) {value}" for letter, value in zip(structure.OPTIONS, values)]
    pieces = [(f" Choices: {' '.join(marked)}.", False)]
    for i in rng.permutation(4)[: rng.integers(2, 5)]:
        letter, value = structure.OPTIONS[i], values[i]
        form = rng.integers(3)
        if form == 0:
            pieces += [(f" ({letter}) ", False), (f"{value}.", True)]
        elif form == 1:
            pieces += [(f" {value} is", False), (f" ({letter}) ", True)]
        else:
            others = "".join(f" {other} no," for other in marked[:i])
            pieces += [(f" Where is {value}?", False), (f"{others} {marked[i]}.", True)]
    return pieces


def _objects(rng) -> list[Piece]:
    """Return a list of objects, then the looks of some of them, in the order of captions."""
    initial, _, _ = transformation.draw_story(rng)
    pieces = [(f" {transformation.attributes(initial)}", False)]
    for i in rng.integers(len(initial), size=rng.integers(4, 9)):
        _, _, look = str(initial[i]).partition(" ")
        pieces += [(f" object {i}:", False), (f" {look}.", True)]
    return pieces


def _changes(rng) -> list[Piece]:
    """Return objects before and after a change, and their changes."""
    initial, steps, final = transformation.draw_story(rng)
    pieces = []
    for i, (before, after) in enumerate(zip(initial, final)):
        new = ", ".join(step.value for step in steps if step.object == i) or "same"
        pieces += [(f" {before}, {after}:", False), (f" {new}.", True)]
    return pieces


def _sums(rng) -> list[Piece]:
    working, value = random_sum(rng)
    return [(f" {working} = ", False), (f"{value}.", True)]
