"""Picture files -> decoded pictures, or `BadSample`: any file can be hostile or broken.

Only a few formats are read. A limit on pixels holds before any pixel is decoded. Every error of a
decoder becomes one exception that names the file.
"""

import functools
import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from rrft_jax.tasks.example import Drawing

# A larger picture is refused before its pixels are decoded: the model would see it scaled down, and
# a file of a few kilobytes can claim to hold gigabytes.
MAX_OPEN_PIXELS = 64_000_000

# The formats of data sets. Pillow reads many more, some of them in dangerous ways: EPS runs
# Ghostscript, icons hold pictures larger than they say.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

# A message may quote a path, and in its place a data set may have a whole picture in base64.
_LONGEST_MESSAGE = 600


class BadSample(Exception):
    """A sample that cannot be used; `cause` is the short name under which it is counted.

    The message is one printable line of bounded length, even if it quotes the data.
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
    """Return a picture with its pixels decoded, in the file's own mode.

    The image processor converts it to RGB later. Grey of 16 bits becomes 8 bits here, because
    Pillow would clip it; Pillow itself scales colour of 16 bits. An animation gives its first
    frame. The rotation noted by a camera is not applied, as in Hugging Face processors.

    Args:
      picture: a path, a PIL image, a `Drawing`, or the bytes of a picture file. A `BadSample` marks
        a picture that must not be opened.
      max_open_pixels: a picture with more pixels (width x height) is not decoded.

    Raises:
      BadSample: the file is missing, no picture, truncated, too large, or the range of its pixels
        is unknown. The cause is "picture".
    """
    return _read(picture, functools.partial(_decoded, max_open_pixels=max_open_pixels))


def image_size(picture: Any) -> tuple[int, int]:
    """Return a picture's width and height in pixels from its header, without decoding it.

    Raises:
      BadSample: as `open_image`, except for errors that only the pixels show.
    """
    return picture.size if isinstance(picture, Drawing) else _read(picture, _checked_size)


def picture_name(picture: Any) -> str:
    """Return the picture's name for messages."""
    return str(picture) if isinstance(picture, str | os.PathLike) else "a picture in memory"


def _read(picture: Any, read: Callable[[Image.Image], Any]) -> Any:
    """Open a picture and return the result of `read`; raise BadSample if either fails."""
    if isinstance(picture, BadSample):
        raise BadSample(picture.cause, str(picture))  # a new one: the old would collect tracebacks
    try:
        if isinstance(picture, Drawing):
            picture = picture.draw()
        if isinstance(picture, Image.Image):
            return read(picture)
        if isinstance(picture, bytes):
            picture = io.BytesIO(picture)
        # A path in a data set may name anything, even a pipe that blocks for ever.
        elif not os.path.isfile(picture):
            raise FileNotFoundError("no such picture file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit holds
            with Image.open(picture, formats=_FORMATS) as opened:
                return read(opened)
    except UnidentifiedImageError as error:  # its own message has an address in memory
        reason = f"cannot identify image; expected one of {', '.join(_FORMATS)}"
        raise BadSample("picture", f"{picture_name(picture)}: {reason}") from error
    except Exception as error:  # Decoders of broken files raise nearly everything.
        raise BadSample("picture", f"{picture_name(picture)}: {error}") from error


def _checked_size(image: Image.Image, max_open_pixels: int = MAX_OPEN_PIXELS) -> tuple[int, int]:
    width, height = image.size
    if not width * height:
        raise ValueError(f"{width} x {height}: no pixels")
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
