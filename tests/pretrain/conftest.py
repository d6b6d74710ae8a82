"""What the tests of the base share: the tokenizer that it is given."""

import pytest

from rrft_jax.data import Processor
from rrft_jax.pretrain.__main__ import corpus
from rrft_jax.pretrain.folder import write_folder


@pytest.fixture(scope="package")
def processor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    write_folder(folder, corpus(0, samples=40))
    return Processor.from_pretrained(folder)
