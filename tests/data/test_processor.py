"""Rows equal what transformers makes of the same messages; hostile text and pictures stay harmless.

The patches must match its PIL image processor, the positions torch's `get_rope_index`.
"""

import itertools
import json
import pathlib
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, ProcessorMixin
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.vision_utils import get_vision_position_ids

from rrft_jax.data import BadSample, Processor, bucket, open_image
from rrft_jax.errors import UserError
from rrft_jax.tasks.example import Drawing

SIZES = {"none": [], "one": [(100, 60)], "two": [(60, 130), (57, 57)], "three": [(30, 90)] * 3}


@pytest.fixture(scope="module")
def folder(checkpoint):
    return checkpoint("small")


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_pretrained(folder)


def _picture(size, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def _chat(text, images=0):
    parts = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def _rows(processor):
    pictures = {name: [_picture(size) for size in sizes] for name, sizes in SIZES.items()}
    rows = {
        name: processor.encode(
            _chat("How many red cubes?\n" * (1 + len(images)), len(images)), images
        )
        for name, images in pictures.items()
    }
    return pictures, rows


def test_patches_equal_the_pil_image_processor(folder, processor):
    picture = _picture((90, 61))
    row = processor.encode(_chat("How many?", 1), [picture])
    theirs = Qwen2VLImageProcessorPil.from_pretrained(folder)(images=[picture], return_tensors="np")
    np.testing.assert_array_equal(row.patches, theirs["pixel_values"])
    assert row.patches.dtype == np.float32
    assert np.sum(row.tokens == processor.image_token) == len(row.patches) // 4


def test_transparent_pictures_of_two_sizes(folder, processor):
    pictures = [_picture((640, 480), "RGBA"), _picture((33, 70), "RGBA", seed=1)]
    row = processor.encode(_chat("What changed?", 2), pictures)
    theirs = Qwen2VLImageProcessorPil.from_pretrained(folder)(images=pictures, return_tensors="np")
    np.testing.assert_array_equal(row.patches, theirs["pixel_values"])
    grids = torch.tensor(theirs["image_grid_thw"])
    np.testing.assert_array_equal(row.patch_rows_cols, get_vision_position_ids(grids, 2).numpy())
    np.testing.assert_array_equal(row.patch_image, np.repeat([0, 1], grids.prod(-1).numpy()))


@pytest.mark.parametrize("name", SIZES)
def test_tokens_equal_the_expanded_template(folder, processor, name):
    pictures, rows = _rows(processor)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = _chat("How many red cubes?\n" * (1 + len(pictures[name])), len(pictures[name]))
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert processor.prompt_text(chat) == text
    pieces = text.split("<|image_pad|>")
    for index in range(len(pictures[name])):
        count = int(np.sum(rows[name].patch_image == index)) // 4
        pieces[index] += "<|image_pad|>" * count
    assert rows[name].tokens.tolist() == tokenizer("".join(pieces))["input_ids"]


@pytest.mark.parametrize("preset", ["small", "windows", "deep"])
def test_positions_of_a_mixed_batch_equal_torch(checkpoint, preset):
    processor = Processor.from_pretrained(checkpoint(preset))
    pictures, rows = _rows(processor)
    batch = processor.batch(list(rows.values()))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(preset)).model
    images = list(itertools.chain(*pictures.values()))
    theirs = Qwen2VLImageProcessorPil.from_pretrained(checkpoint(preset))
    grids = theirs(images=images, return_tensors="np")["image_grid_thw"]
    tokens = torch.tensor(batch.tokens).long()
    positions, deltas = model.get_rope_index(
        tokens,
        (tokens == processor.image_token).int(),
        torch.tensor(grids),
        attention_mask=torch.tensor(batch.mask).int(),
    )
    np.testing.assert_array_equal(batch.positions, positions.numpy())
    lengths = batch.mask.sum(-1)
    np.testing.assert_array_equal(batch.next_position, deltas[:, 0].numpy() + lengths)


def test_batches_pad_tokens_left_and_patches_right(processor):
    _, rows = _rows(processor)
    batch = processor.batch([rows["none"], rows["two"]])
    length, patches = batch.tokens.shape[1], batch.patches.shape[1]
    assert length == bucket(len(rows["two"].tokens))
    assert patches == bucket(len(rows["two"].patches))
    for b, row in enumerate((rows["none"], rows["two"])):
        own, count = len(row.tokens), len(row.patches)
        np.testing.assert_array_equal(batch.tokens[b, length - own :], row.tokens)
        assert np.all(batch.tokens[b, : length - own] == processor.pad_token)
        np.testing.assert_array_equal(batch.mask[b], np.arange(length) >= length - own)
        np.testing.assert_array_equal(batch.patches[b, :count], row.patches)
        np.testing.assert_array_equal(batch.patch_rows_cols[b, :count], row.patch_rows_cols)
        np.testing.assert_array_equal(batch.patch_image[b, :count], row.patch_image)
        assert np.all(batch.patch_image[b, count:] == -1)
    assert processor.batch([rows["none"]]).patches.shape[1] == 0
    with pytest.raises(ValueError, match="do not fit"):
        processor.batch([rows["two"]], prompt_length=8)


@pytest.mark.parametrize("limits", [{}, {"min_pixels": 50_000, "max_pixels": 60_000}])
def test_measured_sizes_are_those_of_the_encoded_row(folder, tmp_path, limits):
    processor = Processor.from_pretrained(folder, **limits)
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (3, 1), (200, 1), (28, 28), (27, 29), (42, 42), (70, 14), (1000, 800)]
    sizes += [tuple(map(int, size)) for size in rng.integers(2, 300, (40, 2))]
    for number, size in enumerate(sizes):
        picture = Image.new("RGB", size)
        if number % 2:
            picture.save(tmp_path / "a.png")
            picture = tmp_path / "a.png"
        drawing = Drawing((size[1], size[0]), lambda size=size: Image.new("RGB", size[::-1]))
        chat, pictures = _chat(f"How many in {size}?", 2), [picture, drawing]
        row = processor.encode(chat, pictures)
        assert processor.measure(chat, pictures) == (len(row.tokens), len(row.patches)), size
    assert processor.measure(_chat("How many?")) == (
        len(processor.encode(_chat("How many?")).tokens),
        0,
    )


def test_measuring_opens_headers_alone(processor, tmp_path):
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    cut = whole[: len(whole) // 2]

    def never():
        raise AssertionError("drawn")

    expected = processor.measure(_chat("", 2), [whole, Image.new("RGB", (60, 60))])
    assert processor.measure(_chat("", 2), [cut, Drawing((60, 60), never)]) == expected
    unusable = [b"text", tmp_path / "no.png"]
    unusable += [Image.new(mode, size) for mode, size in (("RGB", (300, 1)), ("F", (9, 9)))]
    for picture in unusable:
        with pytest.raises(BadSample) as error:
            processor.measure(_chat("", 1), [picture])
        assert error.value.cause == "picture"
    for size in ((0, 5), (5, 0)):
        with pytest.raises(BadSample, match="no pixels"):
            processor.measure(_chat("", 1), [Image.new("RGB", size)])
    with pytest.raises(BadSample, match="2 picture placeholders for 1 pictures"):
        processor.measure(_chat("", 2), [whole])


def test_a_processor_that_travels_still_spells_control_tokens_out(processor):
    chat = _chat("How many <|image_pad|> and <|im_end|>?", 1)
    row, again = (p.encode(chat, [_picture((60, 60))]) for p in (processor, _travelled(processor)))
    np.testing.assert_array_equal(again.tokens, row.tokens)
    np.testing.assert_array_equal(again.patches, row.patches)
    assert _travelled(processor).stop_tokens == processor.stop_tokens


def _travelled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize(
    "literal", ["<|image_pad|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|video_pad|>"]
)
def test_control_tokens_in_a_question_are_spelt_out(processor, literal):
    text = f"How {literal}many{literal}? \ue0006\ue001"
    chat = _chat(text, 1)
    row, plain = (processor.encode(c, [_picture((60, 60))]) for c in (chat, _chat("", 1)))
    for token in processor._special.values():
        assert np.sum(row.tokens == token) == np.sum(plain.tokens == token)
    assert literal in processor.decode(row.tokens)  # the text itself is not lost
    assert f"How {literal}many{literal}?" in processor.prompt_text(chat)
    target = processor.encode_target(f"<answer>{literal}</answer>")
    assert set(target) & set(processor._special.values()) == {target[-1]}


def test_targets_end_their_turn_and_decode_to_themselves(processor):
    text = "<think>\n\n</think>\n<answer>\n3\n</answer>"
    tokens = processor.encode_target(text)
    assert tokens[-1] in processor.stop_tokens
    assert processor.decode(tokens) == text
    assert len(processor.stop_tokens) == len(set(processor.stop_tokens)) == 2


def test_rows_that_cannot_be_encoded(processor):
    with pytest.raises(BadSample, match="2 picture placeholders for 1 pictures") as error:
        processor.encode(_chat("How many?", 2), [_picture((60, 60))])
    assert error.value.cause == "malformed"
    with pytest.raises(BadSample, match="not Unicode") as error:
        processor.encode(_chat("How many \ud800?"))
    assert error.value.cause == "malformed"
    with pytest.raises(BadSample, match="ratio") as error:
        processor.encode(_chat("How many?", 1), [_picture((1005, 5))])
    assert error.value.cause == "picture"


def test_pictures_that_cannot_be_opened(tmp_path):
    whole, cut, text = tmp_path / "whole.png", tmp_path / "cut.png", tmp_path / "text.png"
    _picture((80, 80)).save(whole)
    cut.write_bytes(whole.read_bytes()[:2000])
    text.write_text("not a picture")
    assert open_image(whole).size == (80, 80)
    cases = [
        (cut, 10**6, "cut.png"),
        (text, 10**6, "cannot identify"),
        (tmp_path / "nowhere.png", 10**6, "no such picture file"),
        (tmp_path, 10**6, "no such picture file"),
        ("nul\0.png", 10**6, "no such picture file"),
        (whole, 6399, "80 x 80 pixels are more than 6399"),
        (_picture((80, 80)), 6399, "a picture in memory: 80 x 80"),
    ]
    for picture, limit, message in cases:
        with pytest.raises(BadSample, match=message) as error:
            open_image(picture, limit)
        assert error.value.cause == "picture"


def _copy(folder, path, *names):
    """The folder's tokenizer and preprocessor alone, without `names`."""
    path.mkdir()
    for file in pathlib.Path(folder).iterdir():
        if file.suffix != ".safetensors" and file.name not in names:
            shutil.copy(file, path)
    return path


@pytest.mark.parametrize(
    "stored",
    [
        {"min_pixels": 6272, "max_pixels": 50176},
        {"size": {"shortest_edge": 6272, "longest_edge": 50176}},
        {"size": {"min_pixels": 6272, "max_pixels": 50176}},
        {"size": {"shortest_edge": 1, "longest_edge": 2}, "min_pixels": 6272, "max_pixels": 50176},
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_pixel_limits_in_every_spelling(folder, tmp_path, stored, nested):
    path = _copy(folder, tmp_path / "model", "preprocessor_config.json")
    settings = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2} | stored
    name = "processor_config.json" if nested else "preprocessor_config.json"
    (path / name).write_text(json.dumps({"image_processor": settings} if nested else settings))

    def patches(side, **limits):
        processor = Processor.from_pretrained(path, **limits)
        return len(processor.encode(_chat("", 1), [_picture((side, side))]).patches)

    assert patches(28) == 36  # 84 x 84, the least above 6272
    assert patches(560) == 256  # 224 x 224
    assert patches(560, max_pixels=112**2) == 64
    assert patches(28, min_pixels=112**2) == 64
    assert patches(560, min_pixels=0, max_pixels=0) == 256


def test_templates_of_a_folder(folder, tmp_path):
    path = _copy(folder, tmp_path / "model", "chat_template.jinja")
    chat = [{"role": "system", "content": "Be brief."}, *_chat("How many?", 1)]
    assert Processor.from_pretrained(path).prompt_text(chat) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    settings = json.loads((path / "tokenizer_config.json").read_text())
    texts = json.dumps({**settings, "chat_template": "of texts"})
    files = {
        "tokenizer_config.json": texts,
        "chat_template.jinja": "of both",
        "chat_template.json": json.dumps({"chat_template": "of processors"}),
        "processor_config.json": json.dumps({"chat_template": "of this processor"}),
    }
    for name, content in files.items():  # each comes before those above it, as in transformers
        (path / name).write_text(content)
        assert Processor.from_pretrained(path).prompt_text(chat) in content
        found, _ = ProcessorMixin.get_processor_dict(str(path))
        assert found.get("chat_template", "of texts") in content


def test_folders_that_cannot_be_loaded(folder, tmp_path):
    def refused(path, message, **limits):
        with pytest.raises(UserError, match=message) as error:
            Processor.from_pretrained(path, **limits)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "no such folder")
    refused(_copy(folder, tmp_path / "a", "tokenizer.json"), "no tokenizer")
    refused(_copy(folder, tmp_path / "b", "preprocessor_config.json"), "no image settings")
    refused(
        folder, "min_pixels=100000 is above max_pixels=50000", min_pixels=10**5, max_pixels=50000
    )
    broken = _copy(folder, tmp_path / "c")
    (broken / "preprocessor_config.json").write_text("{")
    refused(broken, "preprocessor_config.json: not JSON")
    broken = _copy(folder, tmp_path / "d")
    (broken / "tokenizer.json").write_text('{"version": "1.0"')
    refused(broken, "tokenizer.json: not JSON")
    foreign = _copy(folder, tmp_path / "e")
    tokenizer = (foreign / "tokenizer.json").read_text().replace("<|image_pad|>", "<|picture|>")
    (foreign / "tokenizer.json").write_text(tokenizer)
    (foreign / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    refused(foreign, r"image_token_id \d+, but that is '<\|picture\|>' in tokenizer.json")


def test_pictures_inside_of_a_text_equal_the_expanded_template(folder, processor):
    """Tokens, positions and patches are transformers', and `measure` agrees with `encode`."""
    pictures = [_picture((100, 60)), _picture((57, 57), seed=1), _picture((30, 90), seed=2)]
    image = {"type": "image"}
    texts = [{"type": "text", "text": text} for text in ("A is ", " and B <image> ", "\nWhich?")]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).model
    for parts in (
        [texts[0], image, texts[1], image, texts[2], image],
        [image, texts[0], image, image, texts[1]],
        [texts[0], texts[1], image, image, image, texts[2]],
    ):
        chat = [{"role": "user", "content": parts}]
        row = processor.encode(chat, pictures)
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert processor.prompt_text(chat) == text
        assert processor.measure(chat, pictures) == (len(row.tokens), len(row.patches))
        pieces = text.split("<|image_pad|>")
        for index in range(3):
            pieces[index] += "<|image_pad|>" * (int(np.sum(row.patch_image == index)) // 4)
        assert row.tokens.tolist() == tokenizer("".join(pieces))["input_ids"]
        theirs = Qwen2VLImageProcessorPil.from_pretrained(folder)(
            images=pictures, return_tensors="np"
        )
        np.testing.assert_array_equal(row.patches, theirs["pixel_values"])
        tokens = torch.tensor(row.tokens[None]).long()
        positions, deltas = model.get_rope_index(
            tokens,
            (tokens == processor.image_token).int(),
            torch.tensor(theirs["image_grid_thw"]),
        )
        np.testing.assert_array_equal(row.positions, positions[:, 0])
        assert row.next_position == len(row.tokens) + int(deltas[0])


@pytest.mark.parametrize("text", ["How many?", "数 é 🐍🐍 \ufffd.", "<think>\n1\n</think>", ""])
def test_pieces_are_the_text_of_each_token(processor, text):
    tokens = processor.encode_target(text)
    pieces = processor.pieces(tokens)
    assert len(pieces) == len(tokens) and "".join(pieces) == text + "<|im_end|>"
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_pieces_of_broken_characters_are_told(processor):
    snake = processor.encode_target("🐍")[:-1]
    end = processor.encode_target("")
    assert processor.pieces([*snake[:1], *end, *snake, *end])[-2:] == ["🐍", "<|im_end|>"]
    assert processor.pieces(snake[:1]) == ["\ufffd"]
    assert all(processor.pieces(snake[:1] * 4 + snake[1:2] * 9)[i] for i in (3, -1))
