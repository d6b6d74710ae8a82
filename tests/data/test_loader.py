"""Batches hold what they say, in a few shapes; unusable samples are left out, counted."""

import itertools

import numpy as np
import pytest

from rrft_jax.data import BadSample, Processor, Prompts, Source, drawn, target
from rrft_jax.errors import UserError
from tests.loading import Drawn, cut_png, example_of, ids_of, loader_of, uneven


@pytest.fixture(scope="module")
def processor(checkpoint):
    return Processor.from_pretrained(checkpoint("small"))


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
    first, last = loader_of([example_of(i) for i in range(6)], processor)
    assert [e.id for e in first.examples + last.examples] == [f"e{i}" for i in range(6)]
    assert len(last.examples) == len(last.sources) == len(last.prompt_texts) == 2
    assert last.prompt.tokens.shape[0] == last.completions.shape[0] == 4
    np.testing.assert_array_equal(last.prompt.tokens[2], last.prompt.tokens[1])
    np.testing.assert_array_equal(last.completion_mask.any(-1)[:, 0], [True, True, False, False])


def test_sources_without_weights_are_one_data_set(processor):
    sources = [Source([example_of(100 * k + i) for i in range(n)]) for k, n in enumerate((9, 3, 4))]
    everything = sorted(e.id for source in sources for e in source.examples)
    ids = ids_of(loader_of(sources, processor, shuffle=True, epochs=None), batches=8)
    assert sorted(ids[:16]) == sorted(ids[16:]) == everything
    assert ids_of(loader_of(sources, processor)) == [e.id for s in sources for e in s.examples]


def test_sources_mix_by_weight(processor):
    a, b = (
        Source([example_of(100 * k + i, images=0) for i in range(10)], weight=w)
        for k, w in enumerate((3.0, 1.0))
    )
    loader = loader_of([a, b], processor, shuffle=True, epochs=None)
    for _ in range(10):
        batch = next(loader)
        assert sum(source is a for source in batch.sources) == 3
        assert all(e in source.examples for e, source in zip(batch.examples, batch.sources))
    loader.close()
    ids = ids_of(loader_of([a, b], processor, shuffle=True, epochs=None), batches=10)
    ours = [i for i in ids if int(i[1:]) < 100]
    assert sorted(ours[:10]) == sorted(ours[10:20]) == sorted(e.id for e in a.examples)
    assert len(ids_of(loader_of([a, b], processor, epochs=2))) == 40
    with pytest.raises(UserError, match="give each one above 0, or none"):
        loader_of([a, Source([example_of(0)])], processor)


def test_each_source_asks_in_its_own_words(processor):
    sources = [Source([example_of(0)], Prompts(system="Be brief.")), Source([example_of(1)])]
    (batch,) = loader_of(sources, processor)
    assert ["Be brief." in text for text in batch.prompt_texts] == [True, False]


@pytest.mark.parametrize("size", [480, 112])
def test_drawn_geometry_pads_few_patches(processor, size):
    data = drawn.DrawnSource("structure_perception", "train", 0, 0, 1000, size)
    loader = loader_of(data, processor, max_prompt_length=4096, shuffle=True, epochs=None)
    *shapes, unusable = loader.description()
    assert all(" of the samples, " in line for line in shapes)
    assert "samples can't be used (target too long: " in unusable
    for batch in itertools.islice(loader, 2):
        share = 1 - (batch.prompt.patch_image >= 0).mean()
        assert batch.padding["padding_patches"] == pytest.approx(share)
        assert share < 0.15
    loader.close()


def test_few_shapes_and_less_padding_than_one(processor):
    examples = uneven(128, side=224)

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
    loader = loader_of([example_of(i) for i in range(8)], processor)
    (line,) = loader.description()
    batch = next(loader)
    tokens, patches = batch.prompt.tokens.shape[1], batch.prompt.patches.shape[1]
    axes = f"4 x ({patches} patches, {tokens} prompt tokens, {batch.completions.shape[2]} target"
    padding = [f"{100 * share:.1f} % of the " for share in batch.padding.values()]
    assert line.startswith(axes + " tokens): 100 % of the samples, ")
    assert all(share in line for share in padding)


def test_unusable_rows_are_left_out_and_counted(processor, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(cut_png())
    examples = [
        example_of(0),
        example_of(1, problem="cube " * 400),
        example_of(2, cot="cube " * 400),
        example_of(3),
        example_of(4, problem="\ud800"),
        *(example_of(5, (str(tmp_path / name),)) for name in ("text.png", "no.png", "cut.png")),
        BadSample("malformed", "a.json: sample 8: no question"),
        example_of(9),
    ]
    loader = loader_of(examples, processor, max_skipped_share=0.9)
    assert ids_of(loader) == ["e0", "e3", "e9"]
    assert loader.skipped == {
        "prompt too long": 1, "target too long": 1, "malformed": 2, "picture": 3
    }  # fmt: skip
    assert loader.used == 3


@pytest.mark.parametrize("batch_size", [1, 4])
def test_another_sample_takes_the_place_of_one_that_cannot_be_decoded(processor, batch_size):
    examples = [example_of(i) for i in range(8)]
    examples[2] = example_of(2, (cut_png(),))
    loader = loader_of(examples, processor, epochs=None, batch_size=batch_size)
    ids = ids_of(loader, batches=8 // batch_size)
    assert ids == [f"e{i}" for i in (0, 1, 3 if batch_size == 4 else 0, 3, 4, 5, 6, 7)]
    assert loader.skipped == {"picture": 1}
    loader = loader_of(examples, processor, batch_size=batch_size)
    assert ids_of(loader) == [f"e{i}" for i in (0, 1, 3, 4, 5, 6, 7)]
    assert loader.skipped == {"picture": 1}


def test_padding_stays_within_the_limits(processor):
    (free,) = loader_of([example_of(0)], processor)
    prompt, target_length = int(free.prompt.mask[0].sum()), int(free.completion_mask[0].sum())
    limits = {"max_prompt_length": prompt, "max_target_length": target_length}
    (batch,) = loader_of([example_of(0)], processor, **limits)
    assert batch.prompt.tokens.shape == (4, prompt)
    assert batch.completions.shape == (4, 1, target_length)
    with pytest.raises(UserError, match="prompt too long: 1.*sample e0"):
        next(loader_of([example_of(0)], processor, max_prompt_length=prompt - 1))


def test_a_window_short_of_samples_repeats_some(processor):
    examples = [example_of(i, problem="How many?" if i % 4 else "\ud800") for i in range(64)]
    ids = ids_of(loader_of(examples, processor, epochs=None), batches=16)
    usable = [f"e{i}" for i in range(64) if i % 4]
    assert ids == usable + usable[:16]


def test_too_many_unusable_rows_end_the_run(processor):
    rows = [example_of(i, problem="\ud800" if i % 3 else "How many?") for i in range(60)]
    message = r"40 of the first 60 samples.*malformed: 40.*sample e\d+.*data.max_skipped_share"
    for epochs in (1, None):
        with pytest.raises(UserError, match=message if epochs else "samples are unusable"):
            next(loader_of(rows, processor, epochs=epochs))
    assert len(ids_of(loader_of(rows, processor, max_skipped_share=0.7))) == 20
    cut = [example_of(i, (cut_png(),)) if i % 3 else example_of(i) for i in range(60)]
    with pytest.raises(UserError, match="of the first 60 samples are unusable"):
        ids_of(loader_of(cut, processor))


@pytest.mark.parametrize("epochs", [1, None])
def test_data_without_a_usable_row_is_an_error(processor, epochs):
    for rows in ([example_of(0, problem="\ud800")] * 3, [example_of(0, (cut_png(),))] * 3):
        with pytest.raises(UserError, match="no usable sample in the data.*sample e0"):
            next(loader_of(rows, processor, epochs=epochs, max_skipped_share=1.0))
    with pytest.raises(UserError, match="empty"):
        loader_of([], processor)


def test_numbers_that_do_not_fit(processor):
    with pytest.raises(UserError, match="data.buckets=0: expected 1 or more"):
        loader_of(Drawn(9), processor, max_buckets=0)


def test_thoughts_are_dropped_by_sample_alike_in_every_epoch(processor):
    examples = [example_of(i, images=0) for i in range(200)]

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
