"""Picture files in, decoded pictures out, or `BadRow`: any file can be hostile or broken.

What is read is fenced in: a few formats, a limit on pixels that holds before any is decoded, and
whatever a decoder raises ends in one exception that names the file.
"""

import functools
import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from rrft_jax.data.example import Drawing

# A larger picture is refused before its pixels are decoded: it would be scaled down anyway, and
# a file of a few kilobytes can claim to hold gigabytes.
MAX_OPEN_PIXELS = 64_000_000

# What pictures of data sets come in. Pillow reads far more, and some of it in dangerous ways: EPS
# runs Ghostscript, icons hold pictures larger than they say.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")

# Where a path should be there may stand a whole picture in base64.
_LONGEST_MESSAGE = 600


class BadRow(Exception):
    """A sample that cannot be used; `cause` is the short name under which it is counted.

    Its message is one printable line of bounded length, whatever it quotes of the data.
    """

    def __init__(self, cause: str, message: str):
        if len(message) > _LONGEST_MESSAGE:
            half = _LONGEST_MESSAGE // 2 - 5
            message = f"{message[:half]} ... {message[-half:]}"
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))
        self.cause = cause

    def __reduce__(self):
        return type(self), (self.cause, str(self))


def open_image(picture: Any, max_open_pixels: int = MAX_OPEN_PIXELS) -> Image.Image:
    """A picture with its pixels decoded, in the file's own mode: the image processor makes it RGB.

    Grey of 16 bits comes as 8, as colour of 16 bits does from Pillow: it clips the one and scales
    the other. Of an animation it's the first frame. The rotation that a camera noted in the file
    is not applied, as in Hugging Face processors.

    Args:
      picture: a path, a PIL image, a `Drawing`, or the bytes of a picture file; or the `BadRow` of
        a picture that must not be opened.
      max_open_pixels: width x height beyond which the pixels are not decoded.

    Raises:
      BadRow: missing, not a picture, truncated, too large, or of pixels whose range isn't known;
        its cause is "picture".
    """
    return _read(picture, functools.partial(_decoded, max_open_pixels=max_open_pixels))


def image_size(picture: Any) -> tuple[int, int]:
    """Width and height in pixels of what `open_image` opens, from its header: nothing is decoded.

    Raises:
      BadRow: as `open_image`, but for what only the pixels tell.
    """
    return picture.size if isinstance(picture, Drawing) else _read(picture, _checked_size)


def picture_name(picture: Any) -> str:
    """What messages call it."""
    return str(picture) if isinstance(picture, str | os.PathLike) else "a picture in memory"


def _read(picture: Any, read: Callable[[Image.Image], Any]) -> Any:
    """What `read` makes of the opened picture; BadRow where either fails."""
    if isinstance(picture, BadRow):
        raise BadRow(picture.cause, str(picture))  # anew: it would collect tracebacks
    try:
        if isinstance(picture, Drawing):
            picture = picture.draw()
        if isinstance(picture, Image.Image):
            return read(picture)
        if isinstance(picture, bytes):
            picture = io.BytesIO(picture)
        # A path in a data set may name anything, a pipe that blocks for ever included.
        elif not os.path.isfile(picture):
            raise FileNotFoundError("no such picture file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit decides
            with Image.open(picture, formats=_FORMATS) as opened:
                return read(opened)
    except Exception as error:  # Decoders of broken files raise nearly everything.
        raise BadRow("picture", f"{picture_name(picture)}: {error}") from error


def _checked_size(image: Image.Image, max_open_pixels: int = MAX_OPEN_PIXELS) -> tuple[int, int]:
    width, height = image.size
    if width * height > max_open_pixels:
        raise ValueError(f"{width} x {height} pixels are more than {max_open_pixels}")
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(f"pixels of mode {image.mode} have no known range; expected 8 or 16 bits")
    return width, height


def _decoded(image: Image.Image, max_open_pixels: int) -> Image.Image:
    _checked_size(image, max_open_pixels)
    image.load()
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image
