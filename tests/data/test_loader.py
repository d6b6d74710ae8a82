"""Batches are a function of the seed, whoever loads them; unusable samples are left out, counted.

The order of samples is the same on 1, 2 and 4 processes, by threads and by worker processes, and
goes on exactly where it was left, on another number of processes too.
"""

import collections
import io
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from rrft_jax.data import (
    BadRow,
    Example,
    Processor,
    Prompts,
    Source,
    drawn,
    prefetch,
    target,
)
from rrft_jax.errors import UserError
from tests.loading import loader_of


@pytest.fixture(scope="module")
def processor(checkpoint):
    return Processor.from_pretrained(checkpoint("small"))


def _example(index, images=1, side=56, **fields):
    """With so many pictures, or with these."""
    if isinstance(images, int):
        images = (Image.new("RGB", (side, side), (index % 256, 0, 0)),) * images
    values = {
        "id": f"e{index}",
        "images": images,
        "problem": f"How many red cubes in {index}?",
        "answer": str(index % 7),
        "cot": "One, two, three.",
        "task": "visual_counting",
    }
    return Example(**values | fields)


class Drawn:
    """A data set that is drawn when asked for, with 0, 1 or 2 pictures a sample."""

    def __init__(self, size):
        self._size = size

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        return _example(index, images=index % 3)


def _cut_png():
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()[:1000]


def _planted(number=48):
    """Every seventh sample is seen to be unusable at once, every fifth only when it's decoded."""
    examples = [_example(i, images=i % 3) for i in range(number)]
    for i in range(0, number, 5):
        examples[i] = _example(i, images=(_cut_png(),))
    for i in range(0, number, 7):
        examples[i] = BadRow("malformed", f"sample {i}: no question")
    return examples


def _uneven(number, side=56):
    """Text-only, one-picture and two-picture samples of many lengths."""
    rng = np.random.default_rng(0)
    return [
        _example(i, i % 3, side, problem="How many? " * int(rng.integers(1, 20)))
        for i in range(number)
    ]


def _ids(loader, batches=None):
    found = [e.id for batch in itertools.islice(loader, batches) for e in batch.examples]
    loader.close()
    return found


def _same(a, b):
    assert [e.id for e in a.examples] == [e.id for e in b.examples]
    assert a.prompt_texts == b.prompt_texts
    for name, value in vars(a.prompt).items():
        np.testing.assert_array_equal(value, getattr(b.prompt, name))
    np.testing.assert_array_equal(a.completions, b.completions)
    np.testing.assert_array_equal(a.completion_mask, b.completion_mask)


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

        loader = loader_of(data, processor, places=range(p, 8, hosts), gather=gather, **options)
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
        ids = {b.places[row]: e.id for b in parts for row, e in zip(b.rows, b.examples)}
        ids = [ids[place] for place in sorted(ids)]
        assert all(b.ids == ids and b.padding == parts[0].padding for b in parts)
        assert parts[0].tokens == sum(_tokens(b) for b in parts)
        found.append((ids, parts[0].padding, *shapes))
    return found, states[0]


def _tokens(batch):
    return sum(batch.prompt.mask[b].sum() + batch.completion_mask[b].sum() for b in batch.rows)


def test_a_batch_holds_what_it_says(processor):
    (batch,) = loader_of(Drawn(4), processor)
    assert batch.prompt.tokens.shape[0] == batch.completions.shape[0] == 4
    # The text-only rows come first: they fit a smaller shape.
    assert [e.id for e in batch.examples] == ["e0", "e3", "e1", "e2"]
    assert [len(set(row[row >= 0])) for row in batch.prompt.patch_image] == [0, 0, 1, 2]
    assert batch.completions.shape == batch.completion_mask.shape
    for b, example in enumerate(batch.examples):
        assert example.problem in batch.prompt_texts[b]
        own = batch.completions[b, 0][batch.completion_mask[b, 0]]
        assert own[-1] in processor.stop_tokens
        assert processor.decode(own) == target(example, "cot_sft")
        assert np.all(batch.completions[b, 0][~batch.completion_mask[b, 0]] == processor.pad_token)


def test_without_targets_there_are_no_completions(processor):
    (batch,) = loader_of(
        Drawn(4), processor, targets=False, paradigm="reason_rft", max_target_length=1
    )
    assert batch.completions is None and batch.completion_mask is None


def test_the_last_batch_is_filled_up_and_says_so(processor):
    first, last = loader_of([_example(i) for i in range(6)], processor)
    assert [e.id for e in first.examples + last.examples] == [f"e{i}" for i in range(6)]
    assert len(last.examples) == len(last.sources) == len(last.prompt_texts) == 2
    assert last.prompt.tokens.shape[0] == last.completions.shape[0] == 4
    np.testing.assert_array_equal(last.prompt.tokens[2], last.prompt.tokens[1])
    np.testing.assert_array_equal(last.completion_mask.any(-1)[:, 0], [True, True, False, False])


def test_rows_alike_keep_the_order_of_the_data(processor):
    assert _ids(loader_of([_example(i) for i in range(30)], processor)) == [
        f"e{i}" for i in range(30)
    ]


def test_every_epoch_has_its_own_order_and_misses_nothing(processor):
    everything = sorted(f"e{i}" for i in range(16))
    examples = [_example(i) for i in range(16)]
    ids = _ids(loader_of(examples, processor, shuffle=True, epochs=None), batches=12)
    epochs = [ids[i : i + 16] for i in (0, 16, 32)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = _ids(loader_of(examples, processor, shuffle=True, epochs=None, seed=1), batches=4)
    assert tuple(other) not in {tuple(epoch) for epoch in epochs}
    assert _ids(loader_of(examples, processor, shuffle=True, epochs=3)) == ids


def test_sorting_by_shape_loses_and_repeats_nothing(processor):
    examples = _uneven(64)  # one window
    loader = loader_of(examples, processor, shuffle=True, epochs=None)
    ids = _ids(loader, batches=32)
    for epoch in (ids[:64], ids[64:]):
        assert sorted(epoch) == sorted(example.id for example in examples)
    assert ids[:64] != ids[64:]
    assert sorted(_ids(loader_of(examples, processor))) == sorted(ids[:64])


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("epochs", [None, 1])
def test_every_number_of_processes_sees_the_same_order(processor, broken, epochs):
    examples = _planted() if broken else _uneven(45)
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
    examples = _planted()
    options = {"batch_size": 8, "shuffle": True, "epochs": None}
    whole, _ = _together(examples, processor, 1, stop + 3, **options)
    first, state = _together(examples, processor, before, stop, **options)
    then, _ = _together(examples, processor, after, 3, state, **options)
    assert first + then == whole


@pytest.mark.parametrize("stop", [0, 1, 17])
def test_a_resumed_loader_goes_on_exactly(processor, stop):
    options = {"shuffle": True, "epochs": None, "thought_dropout": 0.5}
    loader = loader_of(_planted(), processor, **options)
    collections.deque(itertools.islice(loader, stop), maxlen=0)
    state = json.loads(json.dumps(loader.get_state()))
    resumed = loader_of(_planted(), processor, **options)
    next(resumed)
    resumed.set_state(state)
    for _ in range(4):
        _same(next(loader), next(resumed))
    assert loader.get_state() == resumed.get_state()
    assert loader.skipped == resumed.skipped and loader.skipped["malformed"] > 0


@pytest.mark.slow
def test_worker_processes_give_the_same_as_threads(processor):
    geometry = drawn.DrawnSource("structure_perception", "train", 0, 0, 10, 56)
    data = [Source(_planted(24), Prompts(system="Be brief.")), Source(geometry)]
    options = {"max_target_length": 1000, "max_prompt_length": 1000}
    threads, workers = (loader_of(data, processor, workers=n, **options) for n in (0, 2))
    next(threads)
    workers.set_state(threads.get_state())
    for a, b in zip(threads, workers, strict=True):
        _same(a, b)
    assert threads.get_state() == workers.get_state() and threads.skipped["picture"] > 0
    workers.close()


def test_sources_without_weights_are_one_data_set(processor):
    sources = [Source([_example(100 * k + i) for i in range(n)]) for k, n in enumerate((9, 3, 4))]
    everything = sorted(e.id for source in sources for e in source.examples)
    ids = _ids(loader_of(sources, processor, shuffle=True, epochs=None), batches=8)
    assert sorted(ids[:16]) == sorted(ids[16:]) == everything
    assert _ids(loader_of(sources, processor)) == [e.id for s in sources for e in s.examples]


def test_sources_mix_by_weight(processor):
    a, b = (
        Source([_example(100 * k + i, images=0) for i in range(10)], weight=w)
        for k, w in enumerate((3.0, 1.0))
    )
    loader = loader_of([a, b], processor, shuffle=True, epochs=None)
    for _ in range(10):
        batch = next(loader)
        assert sum(source is a for source in batch.sources) == 3
        assert all(e in source.examples for e, source in zip(batch.examples, batch.sources))
    loader.close()
    ids = _ids(loader_of([a, b], processor, shuffle=True, epochs=None), batches=10)
    ours = [i for i in ids if int(i[1:]) < 100]
    assert sorted(ours[:10]) == sorted(ours[10:20]) == sorted(e.id for e in a.examples)
    assert len(_ids(loader_of([a, b], processor, epochs=2))) == 40
    with pytest.raises(UserError, match="give each one above 0, or none"):
        loader_of([a, Source([_example(0)])], processor)


def test_each_source_asks_in_its_own_words(processor):
    sources = [Source([_example(0)], Prompts(system="Be brief.")), Source([_example(1)])]
    (batch,) = loader_of(sources, processor)
    assert ["Be brief." in text for text in batch.prompt_texts] == [True, False]


@pytest.mark.parametrize("size", [480, 112])
def test_drawn_geometry_pads_few_patches(processor, size):
    data = drawn.DrawnSource("structure_perception", "train", 0, 0, 1000, size)
    loader = loader_of(data, processor, max_prompt_length=4096, shuffle=True, epochs=None)
    assert all(" of the samples, " in line for line in loader.description())
    for batch in itertools.islice(loader, 2):
        share = 1 - (batch.prompt.patch_image >= 0).mean()
        assert batch.padding["padding_patches"] == pytest.approx(share)
        assert share < 0.15
    loader.close()


def test_few_shapes_and_less_padding_than_one(processor):
    examples = _uneven(128, side=224)

    def shapes_and_padding(buckets):
        options = {"max_buckets": buckets, "max_prompt_length": 1000}
        loader = loader_of(examples, processor, epochs=None, shuffle=True, **options)
        batches = list(itertools.islice(loader, 32))
        shapes = {
            (b.prompt.tokens.shape, b.prompt.patches.shape, b.completions.shape) for b in batches
        }
        assert len(loader.description()) == len(shapes) <= buckets
        loader.close()
        return np.mean([list(b.padding.values()) for b in batches], axis=0)

    one, four = shapes_and_padding(1), shapes_and_padding(4)
    assert (four < 0.6 * one).all()


def test_the_description_names_shapes_and_shares(processor):
    loader = loader_of([_example(i) for i in range(8)], processor)
    (line,) = loader.description()
    batch = next(loader)
    tokens, patches = batch.prompt.tokens.shape[1], batch.prompt.patches.shape[1]
    axes = f"4 x ({patches} patches, {tokens} prompt tokens, {batch.completions.shape[2]} target"
    padding = [f"{100 * share:.1f} % of the " for share in batch.padding.values()]
    assert line.startswith(axes + " tokens): 100 % of the samples, ")
    assert all(share in line for share in padding)


def test_unusable_rows_are_left_out_and_counted(processor, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(_cut_png())
    examples = [
        _example(0),
        _example(1, problem="cube " * 400),
        _example(2, cot="cube " * 400),
        _example(3),
        _example(4, problem="\ud800"),
        *(_example(5, (str(tmp_path / name),)) for name in ("text.png", "no.png", "cut.png")),
        BadRow("malformed", "a.json: sample 8: no question"),
        _example(9),
    ]
    loader = loader_of(examples, processor, max_skipped_share=0.9)
    assert _ids(loader) == ["e0", "e3", "e9"]
    assert loader.skipped == {
        "prompt too long": 1, "target too long": 1, "malformed": 2, "picture": 3
    }  # fmt: skip
    assert loader.used == 3


@pytest.mark.parametrize("batch_size", [1, 4])
def test_another_sample_takes_the_place_of_one_that_cannot_be_decoded(processor, batch_size):
    examples = [_example(i) for i in range(8)]
    examples[2] = _example(2, (_cut_png(),))
    loader = loader_of(examples, processor, epochs=None, batch_size=batch_size)
    ids = _ids(loader, batches=8 // batch_size)
    assert ids == [f"e{i}" for i in (0, 1, 3 if batch_size == 4 else 0, 3, 4, 5, 6, 7)]
    assert loader.skipped == {"picture": 1}
    loader = loader_of(examples, processor, batch_size=batch_size)
    assert _ids(loader) == [f"e{i}" for i in (0, 1, 3, 4, 5, 6, 7)]
    assert loader.skipped == {"picture": 1}


def test_padding_stays_within_the_limits(processor):
    (free,) = loader_of([_example(0)], processor)
    prompt, target_length = int(free.prompt.mask[0].sum()), int(free.completion_mask[0].sum())
    limits = {"max_prompt_length": prompt, "max_target_length": target_length}
    (batch,) = loader_of([_example(0)], processor, **limits)
    assert batch.prompt.tokens.shape == (4, prompt)
    assert batch.completions.shape == (4, 1, target_length)
    with pytest.raises(UserError, match="prompt too long: 1.*sample e0"):
        next(loader_of([_example(0)], processor, max_prompt_length=prompt - 1))


def test_a_window_short_of_samples_repeats_some(processor):
    examples = [_example(i, problem="How many?" if i % 4 else "\ud800") for i in range(64)]
    ids = _ids(loader_of(examples, processor, epochs=None), batches=16)
    usable = [f"e{i}" for i in range(64) if i % 4]
    assert ids == usable + usable[:16]


def test_too_many_unusable_rows_end_the_run(processor):
    rows = [_example(i, problem="\ud800" if i % 3 else "How many?") for i in range(60)]
    message = r"40 of the first 60 samples.*malformed: 40.*sample e\d+.*data.max_skipped_share"
    for epochs in (1, None):
        with pytest.raises(UserError, match=message if epochs else "samples are unusable"):
            next(loader_of(rows, processor, epochs=epochs))
    assert len(_ids(loader_of(rows, processor, max_skipped_share=0.7))) == 20
    cut = [_example(i, (_cut_png(),)) if i % 3 else _example(i) for i in range(60)]
    with pytest.raises(UserError, match="of the first 60 samples are unusable"):
        _ids(loader_of(cut, processor))


@pytest.mark.parametrize("epochs", [1, None])
def test_data_without_a_usable_row_is_an_error(processor, epochs):
    for rows in ([_example(0, problem="\ud800")] * 3, [_example(0, (_cut_png(),))] * 3):
        with pytest.raises(UserError, match="no usable sample in the data.*sample e0"):
            next(loader_of(rows, processor, epochs=epochs, max_skipped_share=1.0))
    with pytest.raises(UserError, match="empty"):
        loader_of([], processor)


def test_numbers_that_do_not_fit(processor):
    with pytest.raises(UserError, match="data.buckets=0: expected 1 or more"):
        loader_of(Drawn(9), processor, max_buckets=0)


def test_thoughts_are_dropped_by_sample_alike_in_every_epoch(processor):
    examples = [_example(i, images=0) for i in range(200)]

    def dropped(**options):
        loader = loader_of(examples, processor, thought_dropout=0.3, batch_size=50, **options)
        found = []
        for batch in loader:
            for b, example in enumerate(batch.examples):
                text = processor.decode(batch.completions[b, 0][batch.completion_mask[b, 0]])
                if text == target(example, "cot_sft", think=False):
                    found.append(example.id)
        return sorted(found)

    once = dropped()
    assert 0.2 < len(once) / 200 < 0.4
    assert dropped(shuffle=True, epochs=2) == sorted(once * 2)
    assert dropped(seed=1) != once


def test_the_next_batch_is_placed_before_this_one_is_given(processor):
    examples = [_example(i) for i in range(12)]
    placed = []

    def place(batch):
        placed.append(batch.examples[0].id)
        return len(placed)

    given = prefetch(loader_of(examples, processor), place)
    batch, first, state = next(given)
    assert (batch.examples[0].id, first, placed) == ("e0", 1, ["e0", "e4"])
    resumed = loader_of(examples, processor)
    resumed.set_state(state)
    assert _ids(resumed, batches=1) == ["e4", "e5", "e6", "e7"]
    assert [(batch.examples[0].id, number) for batch, number, _ in given] == [("e4", 2), ("e8", 3)]
