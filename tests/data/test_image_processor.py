"""Sizes, levels and inputs are those of transformers' image processor, for any picture."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from rrft_jax.assets import TINY
from rrft_jax.data.image_processor import ImageProcessor
from rrft_jax.errors import UserError

SMALL = ImageProcessor(56**2, 112**2)


def picture(mode: str, size=(61, 90)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    if mode == "CMYK":
        return Image.fromarray(pixels, "CMYK")
    return Image.fromarray(pixels, "RGBA").convert(mode)


def written(folder: pathlib.Path, settings: dict) -> pathlib.Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_sizes_are_those_of_transformers():
    draw = np.random.default_rng(0)
    seen = set()
    for _ in range(3000):
        width, height = np.exp(draw.uniform(0, np.log(5000), 2)).astype(int).tolist()
        least, most = sorted(np.exp(draw.uniform(np.log(800), np.log(4e6), 2)).astype(int).tolist())
        side = draw.choice([28, 32]).item()
        mine = ImageProcessor(least, most, patch_size=side // 2)
        if max(width, height) > 200 * min(width, height):
            for of, edges in ((mine.size, (width, height)), (smart_resize, (height, width, side))):
                with pytest.raises(ValueError, match="aspect ratio"):
                    of(*edges)
            continue
        size = mine.size(width, height)
        assert size == smart_resize(height, width, side, least, most)[::-1]
        seen.add(np.sign(size[0] * size[1] - width * height))
    assert seen == {-1, 0, 1}  # some reduced, some enlarged, some as they were


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "1", "P", "CMYK", "YCbCr", "HSV"])
def test_levels_of_every_mode_are_those_of_transformers(mode):
    theirs = Qwen2VLImageProcessorPil(min_pixels=56**2, max_pixels=112**2)
    for size in [(61, 90), (300, 200), (84, 56), (8, 9)]:
        image = picture(mode, size)
        pixels = theirs.process_image(image, do_convert_rgb=True)
        pixels = theirs.resize(pixels, theirs.size, theirs.resample, 28)
        np.testing.assert_array_equal(SMALL.levels(image), np.moveaxis(pixels, 0, -1))


def test_a_transparent_colour_of_a_palette_becomes_white():
    image = picture("P", (84, 56))
    image.info["transparency"] = image.getpixel((0, 0))
    assert SMALL.levels(image)[0, 0].tolist() == [255] * 3
    del image.info["transparency"]
    assert SMALL.levels(image)[0, 0].tolist() != [255] * 3


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_rescale": False},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1.0},
        {"image_mean": [0.5, 0.25, 0], "image_std": [0.5, 0.1, 1], "resample": 2},
        {"do_rescale": None, "image_mean": None, "resample": None},
    ],
)
def test_inputs_are_those_of_transformers_and_go_back_to_pixels(tmp_path, settings):
    limits = {"min_pixels": 56**2, "max_pixels": 112**2, "do_resize": True, "a": "b"}
    mine = ImageProcessor.from_pretrained(written(tmp_path, settings | limits))
    # A null there is what the class says.
    stated = {name: value for name, value in settings.items() if value is not None}
    theirs = Qwen2VLImageProcessorPil(**stated, min_pixels=56**2, max_pixels=112**2)
    image = picture("RGB", (84, 84))
    levels = mine.levels(image)
    values = np.take_along_axis(mine.values(), levels.reshape(-1, 3).T, axis=1).T
    values = values.reshape(levels.shape)
    rows = values.reshape(3, 2, 14, 3, 2, 14, 3)  # as patches: tokens, then the patches of a token
    patches = rows.transpose(0, 3, 1, 4, 6, 2, 5)[..., None, :, :].repeat(2, axis=5)
    expected = theirs(images=[image], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(patches.reshape(expected.shape), expected)
    np.testing.assert_array_equal(np.asarray(mine.picture(values)), levels)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("patch_size", "14", "a positive integer"),
        ("merge_size", 0, "a positive integer"),
        ("temporal_patch_size", True, "a positive integer"),
        ("resample", 9, "the number of a filter of Pillow"),
        ("resample", "bicubic", "the number of a filter of Pillow"),
        ("resample", [3], "the number of a filter of Pillow"),
        ("do_normalize", "yes", "true or false"),
        ("rescale_factor", {}, "a number"),
        ("image_mean", "0.5", "a number, or one of each colour"),
        ("image_std", [1, None, 1], "a number, or one of each colour"),
        ("size", [1, 2], "an object"),
        ("max_pixels", [1], "a number"),
    ],
)
def test_a_setting_of_another_kind_is_named(tmp_path, name, value, wanted):
    with pytest.raises(UserError) as error:
        ImageProcessor.from_pretrained(written(tmp_path, {name: value}))
    assert f"have {name} {value!r}, expected {wanted}; download" in str(error.value)


def test_a_processor_leaves_torch_alone():
    """Its import takes seconds at the start of every run."""
    code = (
        "import sys; from rrft_jax.data import Processor; "
        f"Processor.from_pretrained({str(TINY)!r}); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]
