"""A folder of Qwen3-VL gives its own patches, colours and limits, and must state them all."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rrft_jax.data import BadSample, Processor, show
from rrft_jax.data.drawn import DrawnSource
from rrft_jax.errors import UserError
from rrft_jax.hf.pretrained import read_config
from tests.loading import loader_of

SETTINGS = {  # of a released folder
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
    "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
SIZES = [(640, 480), (33, 70), (1, 1), (256, 256), (272, 240), (3000, 20), (40, 7900)]


def make(source: str, folder: pathlib.Path, nested: bool = False, **changes) -> pathlib.Path:
    """A copy of a checkpoint without weights, with these settings."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    settings = {k: v for k, v in (SETTINGS | changes).items() if v is not None}
    (folder / "preprocessor_config.json").unlink()
    name = "processor_config.json" if nested else "preprocessor_config.json"
    written = {"processor_class": "Qwen3VLProcessor", "image_processor": settings}
    (folder / name).write_text(json.dumps(written if nested else settings))
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["flat", "nested"])
def folder(request, checkpoint, tmp_path_factory):
    return make(checkpoint("deep"), tmp_path_factory.mktemp("models") / "a", request.param)


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_pretrained(folder)


def picture(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def chat(images):
    return [{"role": "user", "content": [{"type": "image"}] * images}]


def theirs(**limits):
    settings = SETTINGS | ({"size": limits} if limits else {})
    return Qwen2VLImageProcessorPil.from_dict(settings)


@pytest.mark.parametrize("size", SIZES)
def test_patches_equal_the_pil_image_processor(processor, size):
    pictures = [picture(size), picture((300, 90), seed=1)]
    row = processor.encode(chat(2), pictures)
    expected = theirs()(images=pictures, return_tensors="np")
    np.testing.assert_array_equal(row.patches, expected["pixel_values"])
    assert row.patches.shape[1] == 1536 and row.patches.dtype == np.float32
    for number, (_, rows, cols) in enumerate(expected["image_grid_thw"].tolist()):
        mine = row.patch_rows_cols[row.patch_image == number]
        assert (mine.max(axis=0) + 1).tolist() == [rows, cols] and not (rows % 2 or cols % 2)
    assert np.sum(row.tokens == processor.image_token) == len(row.patches) // 4
    assert processor.measure(chat(2), pictures) == (len(row.tokens), len(row.patches))


def test_a_picture_that_is_too_long_is_left_out(processor):
    for use in (processor.encode, processor.measure):
        with pytest.raises(BadSample, match="aspect ratio") as error:
            use(chat(1), [picture((3010, 15))])
        assert error.value.cause == "picture"


@pytest.mark.parametrize("limits", [{}, {"min_pixels": 0, "max_pixels": 480_000}])
def test_the_folder_s_lower_limit_holds_unless_another_is_given(folder, limits):
    limited = Processor.from_pretrained(folder, **limits)
    assert len(limited.encode(chat(1), [picture((32, 32))]).patches) * 16**2 == 65_536
    given = Processor.from_pretrained(folder, min_pixels=3136, max_pixels=480_000)
    assert len(given.encode(chat(1), [picture((32, 32))]).patches) * 16**2 == 4096  # 64 x 64
    large = picture((1000, 900))
    expected = theirs(shortest_edge=3136, longest_edge=480_000)(images=[large])["pixel_values"]
    np.testing.assert_array_equal(given.encode(chat(1), [large]).patches, expected)


def test_a_limit_of_the_config_that_contradicts_the_folder_is_refused(folder):
    with pytest.raises(UserError, match="min_pixels=65536 is above max_pixels=50176") as error:
        Processor.from_pretrained(folder, max_pixels=50_176)
    assert "\n" not in str(error.value)


def test_pictures_come_back_from_their_patches(processor):
    original = picture((320, 256))
    (again,) = processor.pictures(processor.encode(chat(1), [original]))
    np.testing.assert_array_equal(np.asarray(again), np.asarray(original))


def test_batches_and_what_is_shown_have_these_patches(processor):
    samples = DrawnSource("visual_counting", "train", 0, 0, 4, 320)
    (batch,) = loader_of(samples, processor, max_prompt_length=512)
    assert batch.prompt.patches.shape[2] == 1536
    said = "\n".join(show.lines(batch, 0, processor))
    assert "<|image_pad|> x 100 (10 x 10)" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 224}, "the image settings have size 224, expected an object"),
        ({"min_pixels": "few"}, "the image settings have min_pixels 'few', expected a number"),
        ({"patch_size": 14}, "has patch_size 14, but config.json has vision_config.patch_size 16"),
        ({"patch_size": None}, "has no patch_size, so 14, but config.json"),
        ({"size": None}, "has no shortest_edge, and this family has no default for it"),
        ({"size": {"shortest_edge": 65_536}}, "has no longest_edge, and this family has no"),
        ({"size": {"height": 64, "width": 64}}, "has no shortest_edge, and this family has no"),
        ({"image_mean": None}, "has no image_mean, and this family has no default for it"),
        ({"image_std": None}, "has no image_std, and this family has no default for it"),
        ({"merge_size": 4}, "has merge_size 4, but config.json has vision_config.spatial_merge"),
        ({"temporal_patch_size": 1}, "has temporal_patch_size 1, but config.json"),
        ({"image_std": [0.5]}, "has 1 numbers in image_std"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_settings_that_are_wrong_or_missing_are_one_line(
    checkpoint, tmp_path, nested, changes, message
):
    with pytest.raises(UserError) as error:
        Processor.from_pretrained(make(checkpoint("deep"), tmp_path / "model", nested, **changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_settings_is_refused(checkpoint, tmp_path):
    folder = make(checkpoint("deep"), tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="no image settings; expected preprocessor_config.json"):
        Processor.from_pretrained(folder)


def test_the_older_names_of_the_limits_count_too(checkpoint, tmp_path):
    limits = {"size": None, "min_pixels": 65_536, "max_pixels": 480_000}
    processor = Processor.from_pretrained(make(checkpoint("deep"), tmp_path / "model", **limits))
    assert len(processor.encode(chat(1), [picture((32, 32))]).patches) * 16**2 == 65_536


def test_no_visual_token_of_its_folder_is_sampled(folder):
    """Its config.json does not state <|vision_pad|>, which the tokenizer has."""
    config, raw = read_config(folder)
    assert "vision_token_id" not in raw
    tokens = Processor.from_pretrained(folder).control_tokens
    banned = {text for index, text in tokens.items() if index in config.visual_tokens}
    parts = ("image_pad", "video_pad", "vision_start", "vision_end", "vision_pad")
    assert banned == {f"<|{part}|>" for part in parts}
