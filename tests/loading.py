"""What the tests of data share: a loader with the usual options, and why a picture is refused."""

import pytest

from rrft_jax.data import BadRow, Source, make_loader

CHAT = [{"role": "user", "content": [{"type": "image"}]}]


def loader_of(data, processor, **options):
    """A loader over a list of sources, or over one data set: once through, in order."""
    defaults = {
        "paradigm": "cot_sft",
        "batch_size": 4,
        "seed": 0,
        "shuffle": False,
        "epochs": 1,
        "targets": True,
        "max_prompt_length": 256,
        "max_target_length": 128,
    }
    sources = data if len(data) and isinstance(data[0], Source) else [Source(data)]
    return make_loader(sources, processor, **defaults | options)


def refusal(use, picture):
    """What `use`, a processor's `encode` or `measure`, says as it refuses a picture."""
    with pytest.raises(BadRow) as error:
        use(CHAT, [picture])
    assert error.value.cause == "picture"
    return str(error.value)
