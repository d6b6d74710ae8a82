"""Batches are a function of the seed, resume exactly, and leave out what cannot be used."""

import json

import numpy as np
import pytest
from PIL import Image

from rrft_jax.data import Example, Processor, bucket, make_loader, target
from rrft_jax.errors import UserError


@pytest.fixture(scope="module")
def processor(checkpoint):
    return Processor.from_pretrained(checkpoint("small"))


def _example(index, images=1, **fields):
    pictures = tuple(Image.new("RGB", (56, 56), (index % 256, 0, 0)) for _ in range(images))
    values = {
        "id": f"e{index}",
        "images": pictures,
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


def _loader(examples, processor, **options):
    defaults = {
        "paradigm": "cot_sft",
        "batch_size": 4,
        "seed": 0,
        "shuffle": False,
        "epochs": 1,
        "targets": True,
        "max_prompt_length": 256,
        "max_target_length": 128,
        "smallest_bucket": 16,
    }
    return make_loader(examples, processor, **defaults | options)


def _ids(loader, batches=None):
    numbers = range(batches) if batches else iter(int, 1)
    return [example.id for _, batch in zip(numbers, loader) for example in batch.examples]


def _same(a, b):
    assert a.examples == b.examples and a.prompt_texts == b.prompt_texts
    for name, value in vars(a.prompt).items():
        np.testing.assert_array_equal(value, getattr(b.prompt, name))
    np.testing.assert_array_equal(a.completions, b.completions)
    np.testing.assert_array_equal(a.completion_mask, b.completion_mask)


def test_a_batch_holds_what_it_says(processor):
    (batch,) = _loader(Drawn(4), processor)
    rows = [np.sum(batch.prompt.mask[b]) for b in range(4)]
    assert batch.prompt.tokens.shape == (4, bucket(max(rows), 16))
    assert batch.prompt.patches.shape == (4, bucket(32), 1176)
    assert [len(set(row[row >= 0])) for row in batch.prompt.patch_image] == [0, 1, 2, 0]
    assert batch.completions.shape == batch.completion_mask.shape
    for b, example in enumerate(batch.examples):
        assert example.problem in batch.prompt_texts[b]
        own = batch.completions[b, 0][batch.completion_mask[b, 0]]
        assert own[-1] in processor.stop_tokens
        assert processor.decode(own) == target(example, "cot_sft")
        assert np.all(batch.completions[b, 0][~batch.completion_mask[b, 0]] == processor.pad_token)


def test_without_targets_there_are_no_completions(processor):
    (batch,) = _loader(
        Drawn(4), processor, targets=False, paradigm="reason_rft", max_target_length=1
    )
    assert batch.completions is None and batch.completion_mask is None


def test_the_last_batch_is_filled_up_and_says_so(processor):
    first, last = _loader(Drawn(6), processor)
    assert [e.id for e in first.examples + last.examples] == [f"e{i}" for i in range(6)]
    assert len(last.examples) == len(last.prompt_texts) == 2
    assert last.prompt.tokens.shape[0] == last.completions.shape[0] == 4
    np.testing.assert_array_equal(last.prompt.tokens[2], last.prompt.tokens[1])
    np.testing.assert_array_equal(last.completion_mask.any(-1)[:, 0], [True, True, False, False])


def test_every_epoch_has_its_own_order_and_misses_nothing(processor):
    everything = sorted(f"e{i}" for i in range(12))
    ids = _ids(_loader(Drawn(12), processor, shuffle=True, epochs=3))
    epochs = [ids[i : i + 12] for i in (0, 12, 24)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = _ids(_loader(Drawn(12), processor, shuffle=True, epochs=3, seed=1))
    assert tuple(other[:12]) not in {tuple(epoch) for epoch in epochs}
    assert _ids(_loader(Drawn(12), processor, shuffle=True, epochs=3)) == ids


def test_without_epochs_it_never_ends(processor):
    ids = _ids(_loader(Drawn(3), processor, epochs=None), batches=4)
    assert ids == ["e0", "e1", "e2"] * 5 + ["e0"]


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_resumed_loader_goes_on_exactly(processor, stop):
    examples = [_example(i) for i in range(9)]
    examples[4] = _example(4, images=0, problem="How many " * 300)
    options = {"shuffle": True, "epochs": None, "thought_dropout": 0.5}
    loader = _loader(examples, processor, **options)
    for _ in range(stop):
        next(loader)
    state = json.loads(json.dumps(loader.get_state()))
    resumed = _loader(examples, processor, **options)
    resumed.set_state(state)
    for _ in range(4):
        _same(next(loader), next(resumed))
    assert loader.skipped == resumed.skipped and loader.skipped["prompt too long"] > 0
    assert loader.get_state() == resumed.get_state()


def test_unusable_rows_are_left_out_and_counted(processor, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    examples = [
        _example(0),
        _example(1, problem="cube " * 400),
        _example(2, cot="cube " * 400),
        _example(3),
        _example(4, problem="\ud800"),
    ]
    broken = Example("e5", (str(tmp_path / "text.png"),), "How many?", "1", None, "visual_counting")
    missing = Example("e6", (str(tmp_path / "no.png"),), "How many?", "1", None, "visual_counting")
    loader = _loader([*examples, broken, missing, _example(7)], processor)
    assert _ids(loader) == ["e0", "e3", "e7"]
    assert loader.skipped == {
        "prompt too long": 1, "target too long": 1, "malformed": 1, "picture": 2
    }  # fmt: skip


def test_padding_stays_within_the_limits(processor):
    (free,) = _loader([_example(0)], processor)
    prompt, target_length = int(free.prompt.mask[0].sum()), int(free.completion_mask[0].sum())
    limits = {"max_prompt_length": prompt, "max_target_length": target_length}
    (batch,) = _loader([_example(0)], processor, smallest_bucket=64, **limits)
    assert batch.prompt.tokens.shape == (4, prompt)
    assert batch.completions.shape == (4, 1, target_length)
    with pytest.raises(UserError, match="prompt too long: 1.*sample e0"):
        next(_loader([_example(0)], processor, max_prompt_length=prompt - 1))


def test_too_many_unusable_rows_end_the_run(processor):
    rows = [_example(i, problem="\ud800" if i % 3 else "How many?") for i in range(60)]
    with pytest.raises(
        UserError, match=r"of the first 20 samples.*malformed.*sample e\d+.*max_skip"
    ):
        _ids(_loader(rows, processor))
    assert len(_ids(_loader(rows, processor, max_skipped_share=0.7))) == 20


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("epochs, message", [(1, "no usable sample"), (None, "20 of the first 20")])
def test_data_without_a_usable_row_is_an_error(processor, share, epochs, message):
    rows = [_example(i, problem="\ud800") for i in range(3)]
    with pytest.raises(UserError, match=message):
        next(_loader(rows, processor, epochs=epochs, max_skipped_share=share))
    with pytest.raises(UserError, match="empty"):
        _loader([], processor)


def test_thoughts_are_dropped_by_sample_alike_in_every_epoch(processor):
    examples = [_example(i, images=0) for i in range(200)]

    def dropped(**options):
        loader = _loader(examples, processor, thought_dropout=0.3, batch_size=50, **options)
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
