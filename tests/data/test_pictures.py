"""Every picture file ends in the patches of the RGB picture that people see, or in BadSample.

The patches of an RGB picture are those of transformers' PIL image processor, and where it is right
about the file too, as with transparency over white, those of the file are the same.
"""

import pickle
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rrft_jax.data import BadSample, Processor, open_image
from rrft_jax.data.pictures import image_size
from tests.loading import CHAT, refusal


@pytest.fixture(scope="module")
def folder(checkpoint):
    return checkpoint("small")


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs(folder):
    process = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return lambda picture: process(images=[picture], return_tensors="np")["pixel_values"]


def _noise(mode="RGB", size=(90, 61), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def _over_white(picture):
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _palette(transparency):
    """Four quarters in the colours of a palette, and what they look like."""
    picture = Image.new("P", (60, 60))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    seen = Image.new("RGBA", (60, 60), (255, 0, 0, transparency[0]))
    for index, color in ((1, (0, 255, 0)), (2, (0, 0, 255)), (3, (9, 9, 9))):
        box = (index % 2 * 30, index // 2 * 30, index % 2 * 30 + 29, index // 2 * 30 + 29)
        ImageDraw.Draw(picture).rectangle(box, index)
        ImageDraw.Draw(seen).rectangle(box, (*color, transparency[index]))
    return picture, _over_white(seen)


def _png(width, height, data=b""):
    """An RGB file of these sides, without pixels unless `data` holds them compressed."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "name", ["a.png", "a.bmp", "a.ppm", "a.tif", "a.webp", "a.jp2", "a.gif", "a.jpg"]
)
def test_formats(processor, theirs, tmp_path, name):
    lossy = name in ("a.gif", "a.jpg")  # but not of one grey
    picture = Image.new("RGB", (60, 90), (40, 40, 40)) if lossy else _noise()
    picture.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    patches = processor.encode(CHAT, [tmp_path / name]).patches
    np.testing.assert_array_equal(patches, theirs(picture))


@pytest.mark.parametrize(
    "mode, name, seen",
    [
        ("1", "a.png", lambda picture: picture.convert("RGB")),
        ("L", "a.png", lambda picture: Image.merge("RGB", [picture] * 3)),
        ("LA", "a.png", _over_white),
        ("RGBA", "a.png", _over_white),
        ("RGBA", "a.tif", _over_white),
        ("P", "a.png", lambda picture: picture.convert("RGB")),
        ("CMYK", "a.tif", lambda picture: picture.convert("RGB")),
    ],
)
def test_modes(processor, theirs, tmp_path, mode, name, seen):
    picture = _noise(mode)
    if mode == "P":
        picture = _noise().quantize(16)  # all of its palette opaque
    picture.save(tmp_path / name)
    patches = processor.encode(CHAT, [tmp_path / name]).patches
    np.testing.assert_array_equal(patches, theirs(seen(picture)))
    np.testing.assert_array_equal(patches, theirs(Image.open(tmp_path / name)))


@pytest.mark.parametrize(
    "name, transparency, option",
    [
        ("a.png", (255, 0, 255, 255), 1),
        ("a.png", (0, 100, 200, 255), bytes([0, 100, 200, 255])),
        ("a.gif", (255, 0, 255, 255), 1),
    ],
)
def test_palettes_with_transparency(processor, theirs, tmp_path, name, transparency, option):
    picture, seen = _palette(transparency)
    picture.save(tmp_path / name, transparency=option)
    patches = processor.encode(CHAT, [tmp_path / name]).patches
    np.testing.assert_array_equal(patches, theirs(seen))
    np.testing.assert_array_equal(patches, theirs(Image.open(tmp_path / name)))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", None])
def test_grey_of_16_bits_is_scaled_to_8(processor, theirs, tmp_path, name):
    values = np.random.default_rng(0).integers(0, 2**16, (61, 90), np.uint16)
    values[0, :2] = 0, 2**16 - 1
    picture = Image.fromarray(values)
    if name:
        picture.save(tmp_path / name)
        picture = tmp_path / name
    seen = Image.fromarray((values // 256).astype(np.uint8)).convert("RGB")
    np.testing.assert_array_equal(processor.encode(CHAT, [picture]).patches, theirs(seen))


def test_grey_of_16_bits_of_the_other_byte_order():
    picture = Image.fromarray(np.array([[0, 255, 256, 65535]], ">u2"))
    assert picture.mode == "I;16B"
    assert np.asarray(open_image(picture)).tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_range_are_no_picture(processor, tmp_path, dtype):
    picture = Image.fromarray(np.arange(3600, dtype=dtype).reshape(60, 60))
    picture.save(tmp_path / "a.tif")
    assert re.search(
        "a.tif: pixels of mode . have no known range", refusal(processor.encode, tmp_path / "a.tif")
    )
    assert "have no known range" in refusal(processor.encode, picture)


def test_cmyk_of_jpeg_is_not_inverted(processor, theirs, tmp_path):
    Image.new("CMYK", (64, 64), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=100)
    patches = processor.encode(CHAT, [tmp_path / "a.jpg"]).patches
    np.testing.assert_array_equal(patches, theirs(Image.new("RGB", (64, 64), "cyan")))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_rotation_of_a_camera_is_not_applied(processor, theirs, tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    _noise().save(tmp_path / name, exif=exif)
    _noise().save(tmp_path / f"plain-{name}")
    assert Image.open(tmp_path / name).getexif()[0x0112] == 6
    patches = processor.encode(CHAT, [tmp_path / name]).patches
    np.testing.assert_array_equal(patches, theirs(Image.open(tmp_path / f"plain-{name}")))


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_an_animation_is_its_first_frame(processor, theirs, tmp_path, name):
    frames = [_noise("L", seed=seed) for seed in range(3)]
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert Image.open(tmp_path / name).n_frames == 3
    patches = processor.encode(CHAT, [tmp_path / name]).patches
    np.testing.assert_array_equal(patches, theirs(frames[0].convert("RGB")))


def test_jpeg_files_of_several_pictures_are_their_first(processor, theirs, tmp_path):
    first, second = (Image.new("RGB", (64, 64), color) for color in ("black", "white"))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    patches = processor.encode(CHAT, [tmp_path / "a.jpg"]).patches
    np.testing.assert_array_equal(patches, theirs(first))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (3, 3), (1, 200), (20_000, 200)])
def test_extreme_sides(processor, theirs, tmp_path, size):
    picture = _noise(size=size)
    picture.save(tmp_path / "a.png")
    patches = processor.encode(CHAT, [tmp_path / "a.png"]).patches
    np.testing.assert_array_equal(patches, theirs(picture))


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (1, 201)])
def test_elongated_beyond_the_limit(processor, tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert re.search(
        "a.png: .*ratio of .* must be at most 200", refusal(processor.encode, tmp_path / "a.png")
    )
    assert "a picture in memory" in refusal(processor.encode, Image.new("RGB", (0, 5)))


def test_the_picture_at_fault_is_named(processor, tmp_path):
    _noise().save(tmp_path / "good.png")
    Image.new("RGB", (1, 300)).save(tmp_path / "long.png")
    chat = [{"role": "user", "content": [{"type": "image"}] * 2}]
    with pytest.raises(BadSample, match="long.png"):
        processor.encode(chat, [tmp_path / "good.png", tmp_path / "long.png"])


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.bmp", "a.ppm", "a.tif", "a.jp2"]
)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_truncated_files(processor, tmp_path, name, share):
    _noise().save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    assert name in refusal(processor.encode, tmp_path / name)


def test_what_a_reader_refused_stays_refused(processor):
    assert re.search(
        "^../a.png: not opened$",
        refusal(processor.encode, BadSample("picture", "../a.png: not opened")),
    )


def test_broken_files(processor, tmp_path):
    _noise().save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.png").write_bytes(content)
    assert "a.png: " in refusal(processor.encode, tmp_path / "a.png")
    (tmp_path / "a.jpg").write_text("<html>404: not found</html>")
    assert "a.jpg: cannot identify" in refusal(processor.encode, tmp_path / "a.jpg")


def test_formats_that_are_not_opened(processor, tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 60 60\n%%EOF\n")
    assert "a.png: cannot identify" in refusal(processor.encode, tmp_path / "a.png")
    _noise(size=(64, 64)).save(tmp_path / "a.ico")
    assert "a.ico: cannot identify" in refusal(processor.encode, tmp_path / "a.ico")


@pytest.mark.parametrize("size", [(10_000, 6_401), (13_000, 13_000), (100_000, 100_000)])
def test_bombs_are_refused_before_they_are_decoded(processor, tmp_path, size):
    # Without pixels to decode: to try would end in "truncated".
    (tmp_path / "a.png").write_bytes(_png(*size))
    assert re.search(
        "pixels are more than 64000000|decompression bomb",
        refusal(processor.encode, tmp_path / "a.png"),
    )
    (tmp_path / "b.png").write_bytes(_png(60, 60))
    assert "truncated" in refusal(processor.encode, tmp_path / "b.png")


def test_sizes_of_files_are_those_of_the_decoded_picture(tmp_path):
    for name in ("a.png", "a.bmp", "a.ppm", "a.tif", "a.webp", "a.jp2", "a.gif", "a.jpg"):
        _noise().save(tmp_path / name)
        assert image_size(tmp_path / name) == open_image(tmp_path / name).size == (90, 61)


def test_a_bad_row_travels_whole():
    again = pickle.loads(pickle.dumps(BadSample("picture", "a.png: cut")))
    assert (again.cause, str(again)) == ("picture", "a.png: cut")
