"""The order of batches is a function of the seed, whoever loads them.

It is the same on 1, 2 and 4 processes, by threads and by worker processes, and goes on exactly
where it was left, on another number of processes too.
"""

import collections
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rrft_jax.data import Processor, Prompts, Source, drawn
from tests.loading import assert_same, example_of, ids_of, loader_of, planted, uneven


@pytest.fixture(scope="module")
def processor(checkpoint):
    return Processor.from_pretrained(checkpoint("small"))


def _together(data, processor, hosts, batches=None, state=None, **options):
    """(ids, P, S, T) of each batch as `hosts` processes see them together; and their state.

    The hosts are threads. Neighbouring rows don't lie on the same one, as on a TPU's torus.
    """
    told, barrier = [None] * hosts, threading.Barrier(hosts, timeout=60)

    def host(p):
        def gather(value):
            told[p] = value
            barrier.wait()
            values = list(told)
            barrier.wait()
            return values

        loader = loader_of(data, processor, row_ids=range(p, 8, hosts), gather=gather, **options)
        if state:
            loader.set_state(json.loads(json.dumps(state)))
        found = list(itertools.islice(loader, batches))
        loader.close()
        return found, loader.get_state()

    with ThreadPoolExecutor(hosts) as pool:
        seen, states = zip(*pool.map(host, range(hosts)))
    assert all(one == states[0] for one in states)
    found = []
    for parts in zip(*seen, strict=True):
        shapes = {
            (b.prompt.tokens.shape[1], b.prompt.patches.shape[1], b.completions.shape[2])
            for b in parts
        }
        assert all(len(b.prompt.tokens) == len(b.completions) == 8 // hosts for b in parts)
        ids = {b.row_ids[row]: e.id for b in parts for row, e in zip(b.rows, b.examples)}
        ids = [ids[place] for place in sorted(ids)]
        assert all(b.ids == ids and b.padding == parts[0].padding for b in parts)
        assert parts[0].tokens == sum(_tokens(b) for b in parts)
        found.append((ids, parts[0].padding, *shapes))
    return found, states[0]


def _tokens(batch):
    return sum(batch.prompt.mask[b].sum() + batch.completion_mask[b].sum() for b in batch.rows)


def test_rows_alike_keep_the_order_of_the_data(processor):
    assert ids_of(loader_of([example_of(i) for i in range(30)], processor)) == [
        f"e{i}" for i in range(30)
    ]


def test_every_epoch_has_its_own_order_and_misses_nothing(processor):
    everything = sorted(f"e{i}" for i in range(16))
    examples = [example_of(i) for i in range(16)]
    ids = ids_of(loader_of(examples, processor, shuffle=True, epochs=None), batches=12)
    epochs = [ids[i : i + 16] for i in (0, 16, 32)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = ids_of(loader_of(examples, processor, shuffle=True, epochs=None, seed=1), batches=4)
    assert tuple(other) not in {tuple(epoch) for epoch in epochs}
    assert ids_of(loader_of(examples, processor, shuffle=True, epochs=3)) == ids


def test_sorting_by_shape_loses_and_repeats_nothing(processor):
    examples = uneven(64)  # one window
    loader = loader_of(examples, processor, shuffle=True, epochs=None)
    ids = ids_of(loader, batches=32)
    for epoch in (ids[:64], ids[64:]):
        assert sorted(epoch) == sorted(example.id for example in examples)
    assert ids[:64] != ids[64:]
    assert sorted(ids_of(loader_of(examples, processor))) == sorted(ids[:64])


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("epochs", [None, 1])
def test_every_number_of_processes_sees_the_same_order(processor, broken, epochs):
    examples = planted() if broken else uneven(45)
    options = {"batch_size": 8, "shuffle": epochs is None, "epochs": epochs}
    batches = 11 if epochs is None else None
    alone, state = _together(examples, processor, 1, batches, **options)
    for hosts in (2, 4):
        assert _together(examples, processor, hosts, batches, **options) == (alone, state)
    ids = [i for batch, *_ in alone for i in batch]
    if epochs:
        usable = [e.id for i, e in enumerate(examples) if not broken or i % 5 and i % 7]
        assert sorted(ids) == sorted(usable)
    else:
        assert all(len(batch) == 8 for batch, *_ in alone)
        assert not broken or not {f"e{i}" for i in range(48) if i % 5 == 0} & set(ids)
    assert set(state["skipped"]) == ({"malformed", "picture"} if broken else set())


@pytest.mark.parametrize("stop", [3, 8])
@pytest.mark.parametrize("before, after", [(1, 4), (4, 2)])
def test_a_position_is_exact_on_another_number_of_processes(processor, stop, before, after):
    examples = planted()
    options = {"batch_size": 8, "shuffle": True, "epochs": None}
    whole, _ = _together(examples, processor, 1, stop + 3, **options)
    first, state = _together(examples, processor, before, stop, **options)
    then, _ = _together(examples, processor, after, 3, state, **options)
    assert first + then == whole


@pytest.mark.parametrize("stop", [0, 1, 17])
def test_a_resumed_loader_goes_on_exactly(processor, stop):
    options = {"shuffle": True, "epochs": None, "thought_dropout": 0.5}
    loader = loader_of(planted(), processor, **options)
    collections.deque(itertools.islice(loader, stop), maxlen=0)
    state = json.loads(json.dumps(loader.get_state()))
    resumed = loader_of(planted(), processor, **options)
    next(resumed)
    resumed.set_state(state)
    for _ in range(4):
        assert_same(next(loader), next(resumed))
    assert loader.get_state() == resumed.get_state()
    assert loader.skipped == resumed.skipped and loader.skipped["malformed"] > 0


@pytest.mark.slow
def test_worker_processes_give_the_same_as_threads(processor):
    geometry = drawn.DrawnSource("structure_perception", "train", 0, 0, 10, 56)
    data = [Source(planted(24), Prompts(system="Be brief.")), Source(geometry)]
    options = {"max_target_length": 1000, "max_prompt_length": 1000}
    threads, workers = (loader_of(data, processor, workers=n, **options) for n in (0, 2))
    next(threads)
    workers.set_state(threads.get_state())
    for a, b in zip(threads, workers, strict=True):
        assert_same(a, b)
    assert threads.get_state() == workers.get_state() and threads.skipped["picture"] > 0
    workers.close()
