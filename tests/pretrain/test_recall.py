import numpy as np
import pytest

from rrft_jax.pretrain import recall
from rrft_jax.pretrain.__main__ import PHASES, SIZES, text_row
from rrft_jax.pretrain.folder import SPECIAL, VOCABULARY

LENGTH = 128
WORDS = np.arange(len(SPECIAL), VOCABULARY)


def rows(processor, lists, number=60):
    def encode(text):
        return processor.encode_target(text)[:-1]

    return [
        recall.row(np.random.default_rng([3, i]), encode, WORDS, LENGTH, lists)
        for i in range(number)
    ]


@pytest.mark.parametrize("lists", [0.0, 1.0])
def test_rows_are_full_and_something_of_each_carries_loss(processor, lists):
    for tokens, asked in rows(processor, lists):
        assert tokens.shape == asked.shape == (LENGTH,)
        assert 5 < asked.sum() < LENGTH


def test_what_is_asked_of_a_repetition_stood_there_before_after_the_same_word(processor):
    for tokens, asked in rows(processor, lists=0.0):
        followed = list(zip(tokens[:-1], tokens[1:]))
        for at in np.flatnonzero(asked):
            assert (tokens[at - 1], tokens[at]) in followed[: at - 1]


def test_what_is_asked_of_options_is_one_of_them():
    rng = np.random.default_rng(0)
    for _ in range(50):
        (listed, _), *pieces = recall._options(rng)
        for text in (text for text, asked in pieces if asked):
            words = text.strip(" .").replace(" no,", "").split()
            assert words and set(words) <= set(listed.strip(".").split())


def test_objects_are_described_as_their_list_says():
    rng = np.random.default_rng(0)
    for _ in range(50):
        (listed, _), *pieces = recall._objects(rng)
        for (named, _), (look, asked) in zip(pieces[::2], pieces[1::2], strict=True):
            number, words = named.split()[1].strip(":"), look.strip(" .").split()
            size, colour, material, shape = words
            assert asked
            assert str((number, shape, size, colour, material)) in listed


def test_changes_are_what_differs():
    rng = np.random.default_rng(0)
    for _ in range(50):
        pieces = recall._changes(rng)
        for (shown, _), (new, _) in zip(pieces[::2], pieces[1::2], strict=True):
            before, after = (look.split() for look in shown.strip(" :").split(", "))
            named = new.strip(" .").split(", ")
            looks = [b for a, b in zip(before[1:], after[1:]) if a != b]
            if before == after:
                assert named == ["same"]
            else:
                moved = before[0] != after[0]
                assert set(looks) <= set(named) and len(named) == len(looks) + moved


def test_a_phase_repeats_first_and_looks_up_later(processor):
    def looking_up(phase, progress):
        texts = (
            text_row(processor, np.random.default_rng(i), LENGTH, phase, progress).texts
            for i in range(20)
        )
        shown = [processor.decode(text.completions[0]) for text in texts]
        return sum("Choices:" in t or "initial objects:" in t or ". " in t for t in shown)

    assert looking_up("recall", 0.1) < 3
    assert looking_up("recall", 0.9) > 10
    assert looking_up("review", 0.1) > 10


def test_every_phase_teaches_something():
    assert all(any(phase in lessons for lessons, _ in SIZES.values()) for phase in PHASES)
