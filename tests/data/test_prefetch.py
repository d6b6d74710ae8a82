"""Batches are placed one ahead, and a position counts only those that were taken."""

import pytest

from rrft_jax.data import Prefetch, Processor
from tests.loading import example_of, ids_of, loader_of


@pytest.fixture(scope="module")
def processor(checkpoint):
    return Processor.from_pretrained(checkpoint("small"))


def test_the_next_batch_is_placed_before_this_one_is_given(processor):
    examples = [example_of(i) for i in range(12)]
    placed = []

    def place(batch):
        placed.append(batch.examples[0].id)
        return len(placed)

    given = Prefetch(loader_of(examples, processor), place)
    assert given.position["batches"] == 0 and not placed
    batch, first = next(given)
    assert (batch.examples[0].id, first, placed) == ("e0", 1, ["e0", "e4"])
    resumed = loader_of(examples, processor)
    resumed.set_state(given.position)
    assert ids_of(resumed, batches=1) == ["e4", "e5", "e6", "e7"]
    assert [(batch.examples[0].id, number) for batch, number in given] == [("e4", 2), ("e8", 3)]
    assert given.position["batches"] == 3
    assert next(given, None) is None
