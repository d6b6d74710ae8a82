"""What the tests of data share: a loader with the usual options, good and broken samples for it."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from rrft_jax.data import BadSample, Batching, Example, Format, Reading, Source, make_loader

CHAT = [{"role": "user", "content": [{"type": "image"}]}]


def loader_of(data, processor, **options):
    """A loader over a list of sources, or over one data set: once through, in order."""
    fields = {
        "paradigm": "cot_sft",
        "batch_size": 4,
        "seed": 0,
        "shuffle": False,
        "epochs": 1,
        "targets": True,
        "max_prompt_length": 256,
        "max_target_length": 128,
    } | options
    records = []
    for record in (Format, Batching, Reading):
        names = [field.name for field in dataclasses.fields(record) if field.name in fields]
        records.append(record(**{name: fields.pop(name) for name in names}))
    assert not fields, f"no such options: {fields}"
    sources = data if len(data) and isinstance(data[0], Source) else [Source(data)]
    return make_loader(sources, processor, *records)


def refusal(use, picture):
    """What `use`, a processor's `encode` or `measure`, says as it refuses a picture."""
    with pytest.raises(BadSample) as error:
        use(CHAT, [picture])
    assert error.value.cause == "picture"
    return str(error.value)


def example_of(index, images=1, side=56, **fields):
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
        "extra": {"boxes": [[index, 2.5]]},
    }
    return Example(**values | fields)


class Drawn:
    """A data set that is drawn when asked for, with 0, 1 or 2 pictures a sample."""

    def __init__(self, size):
        self._size = size

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        return example_of(index, images=index % 3)


def cut_png():
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()[:1000]


def planted(number=48):
    """Every seventh sample is seen to be unusable at once, every fifth only when it's decoded."""
    examples = [example_of(i, images=i % 3) for i in range(number)]
    for i in range(0, number, 5):
        examples[i] = example_of(i, images=(cut_png(),))
    for i in range(0, number, 7):
        examples[i] = BadSample("malformed", f"sample {i}: no question")
    return examples


def uneven(number, side=56):
    """Text-only, one-picture and two-picture samples of many lengths."""
    rng = np.random.default_rng(0)
    return [
        example_of(i, i % 3, side, problem="How many? " * int(rng.integers(1, 20)))
        for i in range(number)
    ]


def ids_of(loader, batches=None):
    found = [e.id for batch in itertools.islice(loader, batches) for e in batch.examples]
    loader.close()
    return found


def assert_same(a, b):
    assert [(e.id, e.extra) for e in a.examples] == [(e.id, e.extra) for e in b.examples]
    assert a.prompt_texts == b.prompt_texts
    for name, value in vars(a.prompt).items():
        np.testing.assert_array_equal(value, getattr(b.prompt, name))
    np.testing.assert_array_equal(a.completions, b.completions)
    np.testing.assert_array_equal(a.completion_mask, b.completion_mask)
