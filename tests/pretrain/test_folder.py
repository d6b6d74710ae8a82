"""The packaged base has the files that its training would write today, in the released layout."""

import json

import pytest

from rrft_jax.assets import TINY
from rrft_jax.pretrain.folder import write_folder

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    write_folder(path, ["How many red cubes are left?"])
    return path


def test_the_packaged_files_are_those_that_are_written(folder):
    written, packaged = ({file.name for file in one.iterdir()} for one in (folder, TINY))
    assert packaged == written | {WEIGHTS}
    for name in written - {"tokenizer.json"}:  # its words come from the corpus
        assert (TINY / name).read_text() == (folder / name).read_text(), name


def test_the_layout_is_that_of_the_released_checkpoints():
    raw = json.loads((TINY / "config.json").read_text())
    assert "text_config" not in raw
    assert raw["rope_theta"] == 10000.0
    assert raw["rope_scaling"] == {"type": "mrope", "mrope_section": [4, 6, 6]}
    tokenizer = json.loads((TINY / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    template = json.loads((TINY / "chat_template.json").read_text())["chat_template"]
    assert tokenizer["chat_template"] == template
