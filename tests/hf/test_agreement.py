"""Of two files that state different things about the same one, neither is believed."""

import json
import pathlib
import shutil

import pytest

from rrft_jax.assets import TINY
from rrft_jax.data import Processor
from rrft_jax.errors import UserError

ROWS = 576
WORD = 301  # an ordinary word of the packaged vocabulary


@pytest.fixture
def folder(tmp_path):
    """The packaged folder without its weights, to break."""
    path = tmp_path / "model"
    shutil.copytree(TINY, path, ignore=shutil.ignore_patterns("*.safetensors"))
    return path


def change(folder: pathlib.Path, name: str, **fields) -> None:
    """Sets fields of a file of the folder; None takes one out."""
    file = folder / name
    content = json.loads(file.read_text()) if file.exists() else {}
    content = {k: v for k, v in (content | fields).items() if v is not None}
    file.write_text(json.dumps(content))


def add_tokens(folder: pathlib.Path, **ids: int) -> None:
    """Gives the tokenizer more tokens, which stand at these ids."""
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text())
    vocabulary = written["model"]["vocab"]
    for index in range(len(vocabulary), min(ids.values())):
        vocabulary[f"filler{index}"] = index
    example = written["added_tokens"][0]
    written["added_tokens"] += [{**example, "content": t, "id": i} for t, i in ids.items()]
    file.write_text(json.dumps(written))


def refused(folder: pathlib.Path, *parts: str) -> None:
    with pytest.raises(UserError) as error:
        Processor.from_pretrained(folder)
    assert "\n" not in str(error.value)
    for part in (str(folder), *parts):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("token", "field"),
    [
        ("<|image_pad|>", "image_token_id"),
        ("<|video_pad|>", "video_token_id"),
        ("<|vision_start|>", "vision_start_token_id"),
        ("<|vision_end|>", "vision_end_token_id"),
        ("<|vision_pad|>", "vision_token_id"),
    ],
)
def test_a_token_of_pictures_has_one_id(folder, token, field):
    right = json.loads((folder / "config.json").read_text())[field]
    for wrong in (8, 0, WORD, ROWS - 1):
        change(folder, "config.json", **{field: wrong})
        refused(folder, f"config.json has {field} {wrong}", "tokenizer.json", f"token {right}")
    change(folder, "config.json", **{field: right, "text_config": {field: 8}})
    refused(folder, f"config.json has text_config.{field} 8", "tokenizer.json", f"token {right}")


def test_an_id_that_config_json_leaves_out_is_the_released_one(folder):
    change(folder, "config.json", image_token_id=None)
    refused(folder, "no image_token_id, which then is 151655", "tokenizer.json", "token 6")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eos_token_id", WORD),
        ("eos_token_id", 6),  # <|image_pad|>
        ("eos_token_id", 1),  # <|im_start|>
        ("eos_token_id", ROWS + 4),
        ("eos_token_id", 560),  # a row of the embedding that no token has
        ("pad_token_id", WORD),
        ("pad_token_id", 6),
        ("pad_token_id", ROWS),
        ("bos_token_id", ROWS),
    ],
)
def test_ends_and_padding_are_tokens_for_that(folder, file, field, value):
    change(folder, file, **{field: value})
    refused(folder, f"{file} has {field} {value}", "tokenizer.json")
    if field == "eos_token_id":
        change(folder, file, **{field: [2, value]})
        refused(folder, f"{file} has {field} {value}", "tokenizer.json")


@pytest.mark.parametrize("kind", ["eos", "pad"])
@pytest.mark.parametrize("token", ["<|image_pad|>", "red", "Ġred", "<end>"])
def test_the_tokenizers_own_end_and_padding_are_in_its_file(folder, kind, token):
    change(folder, "tokenizer_config.json", **{f"{kind}_token": token})
    refused(folder, f"tokenizer_config.json has {kind}_token '{token}'", "tokenizer.json")


@pytest.mark.parametrize(
    ("file", "fields"),
    [
        ("generation_config.json", {"eos_token_id": 2}),
        ("generation_config.json", {"eos_token_id": [0]}),
        ("config.json", {"eos_token_id": 0}),  # as in the base models
        ("config.json", {"eos_token_id": [2, 0], "pad_token_id": 2}),
        ("config.json", {"text_config": {"eos_token_id": 2, "pad_token_id": None}}),
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
        ("tokenizer_config.json", {"pad_token": "<|vision_pad|>"}),
        ("config.json", {"vocab_size": 1024}),  # rows without a token are usual
    ],
)
def test_what_differs_without_harm_is_accepted(folder, file, fields):
    change(folder, file, **fields)
    assert {2, 0} <= set(Processor.from_pretrained(folder).stop_tokens)


@pytest.mark.parametrize("kind", ["eos", "pad"])
def test_a_tag_of_an_answer_ends_and_fills_up_nothing(folder, kind):
    add_tokens(folder, **{"<think>": ROWS - 2, "</answer>": ROWS - 1})
    for token in ("<think>", "</answer>"):
        change(folder, "tokenizer_config.json", **{f"{kind}_token": token})
        refused(folder, f"tokenizer_config.json has {kind}_token '{token}'", "another purpose")


def test_every_token_has_a_row_in_the_embedding(folder):
    add_tokens(folder, **{"<think>": ROWS - 2, "</think>": ROWS - 1})
    Processor.from_pretrained(folder)
    add_tokens(folder, **{"<answer>": ROWS, "</answer>": ROWS + 1})
    refused(folder, "tokenizer.json has '</answer>' as token 577", "config.json", "576 rows")


def test_vocabularies_of_two_files_are_one(folder):
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    change(folder, "vocab.json", **vocabulary)
    change(folder, "added_tokens.json", **{"<|image_pad|>": 6, "<|im_end|>": 2})
    Processor.from_pretrained(folder)
    change(folder, "added_tokens.json", **{"<|image_pad|>": 7})
    refused(folder, "added_tokens.json has '<|image_pad|>' as token 7", "tokenizer.json as 6")
    (folder / "added_tokens.json").unlink()
    change(folder, "vocab.json", **{"Ġred": 9})
    refused(folder, "vocab.json has 'Ġred' as token 9", "tokenizer.json as 301")
    (folder / "vocab.json").unlink()
    decoder = {"7": {"content": "<|image_pad|>", "special": True}}
    change(folder, "tokenizer_config.json", added_tokens_decoder=decoder)
    refused(folder, "tokenizer_config.json has '<|image_pad|>' as token 7", "tokenizer.json")
    decoder = {"560": {"content": "<answer>", "special": True}}
    change(folder, "tokenizer_config.json", added_tokens_decoder=decoder)
    refused(folder, "tokenizer_config.json has '<answer>' as token 560", "tokenizer")


def test_the_files_of_a_released_folder_agree(folder):
    written = json.loads((folder / "tokenizer.json").read_text())
    added = {token.pop("content"): token for token in written["added_tokens"]}
    ids = {token: fields.pop("id") for token, fields in added.items()}
    words = {k: v for k, v in written["model"]["vocab"].items() if k not in ids}
    change(folder, "vocab.json", **words)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    change(folder, "added_tokens.json", **ids)
    change(
        folder,
        "tokenizer_config.json",
        added_tokens_decoder={i: {**added[t], "content": t} for t, i in ids.items()},
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        unk_token=None,
        split_special_tokens=False,
        tokenizer_class="Qwen2Tokenizer",
    )
    change(folder, "generation_config.json", do_sample=True, top_k=1, eos_token_id=[2, 0])
    expected = Processor.from_pretrained(TINY).encode_target("How many red cubes?")
    assert Processor.from_pretrained(folder).encode_target("How many red cubes?") == expected
    # As transformers 4.5x saves it: the text's sizes and ids twice, some of them empty.
    raw = json.loads((folder / "config.json").read_text())
    text = {k: v for k, v in raw.items() if k not in ("vision_config", "model_type")}
    text |= {"image_token_id": None, "pad_token_id": None, "model_type": "qwen2_vl_text"}
    change(folder, "config.json", text_config=text)
    assert Processor.from_pretrained(folder).stop_tokens == (2, 0)


def test_words_are_split_as_tokenizer_json_says_whatever_class_is_named(folder):
    expected = Processor.from_pretrained(folder).encode_target("How many red cubes?")
    change(folder, "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    assert Processor.from_pretrained(folder).encode_target("How many red cubes?") == expected


@pytest.mark.parametrize(
    ("field", "own"),
    [
        ("patch_size", "patch_size 14"),
        ("temporal_patch_size", "temporal_patch_size 2"),
        ("merge_size", "spatial_merge_size 2"),
    ],
)
def test_patches_are_as_large_as_the_vision_tower_takes_them(folder, field, own):
    change(folder, "preprocessor_config.json", **{field: 7})
    refused(
        folder, f"preprocessor_config.json has {field} 7", f"config.json has vision_config.{own}"
    )
    change(folder, "preprocessor_config.json", **{field: None})
    Processor.from_pretrained(folder)  # the default is the same
    config = json.loads((folder / "config.json").read_text())
    name = own.split()[0]
    change(folder, "config.json", vision_config={**config["vision_config"], name: 7})
    refused(folder, f"preprocessor_config.json has no {field}, so ", f"vision_config.{name} 7")


def test_a_second_name_of_the_patches_size_says_the_same(folder):
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    change(folder, "config.json", vision_config=vision | {"spatial_patch_size": 14})
    Processor.from_pretrained(folder)
    change(folder, "config.json", vision_config=vision | {"spatial_patch_size": 16})
    refused(folder, "vision_config.spatial_patch_size 16", "patch_size 14")


def test_colours_are_as_many_as_the_vision_tower_takes(folder):
    change(folder, "preprocessor_config.json", image_std=[0.5])
    refused(folder, "preprocessor_config.json has 1 numbers in image_std", "config.json has 3")
    config = json.loads((folder / "config.json").read_text())
    change(folder, "config.json", vision_config={**config["vision_config"], "in_chans": 1})
    refused(folder, "config.json has vision_config.in_channels 1", "3 colours")


def test_a_broken_file_of_the_tokenizer_is_one_line(folder):
    change(folder, "tokenizer_config.json", added_tokens_decoder={"six": {"content": "<a>"}})
    refused(folder, "broken")


def test_settings_of_pictures_in_two_files_are_the_same(folder):
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    limits = {
        "shortest_edge": settings.pop("min_pixels"),
        "longest_edge": settings.pop("max_pixels"),
    }
    change(folder, "processor_config.json", image_processor={**settings, "size": limits})
    Processor.from_pretrained(folder)
    change(
        folder,
        "processor_config.json",
        image_processor={**settings, "size": limits | {"longest_edge": 6272}},
    )
    refused(
        folder,
        "processor_config.json has max_pixels 6272",
        "preprocessor_config.json has max_pixels 230400",
    )
    change(folder, "processor_config.json", image_processor={**settings, "patch_size": 16})
    refused(
        folder,
        "processor_config.json has patch_size 16",
        "preprocessor_config.json has patch_size 14",
    )


def test_colours_are_the_same_in_two_files(folder):
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    change(folder, "processor_config.json", image_processor={**settings, "image_mean": [0.5] * 3})
    refused(folder, "processor_config.json has image_mean [0.5, 0.5, 0.5]", "has image_mean [0.48")
