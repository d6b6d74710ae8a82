"""A picture's pixels as the model sees them: RGB, a size in whole patches, normalised.

The rules are those of transformers' image processor for Qwen2-VL, with which the tests compare. It
is not imported here, because it brings torch along where torch is installed, which takes seconds.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from rrft_jax.errors import UserError
from rrft_jax.hf import agreement, pretrained
from rrft_jax.json_files import is_number
from rrft_jax.models.families import TITLES

_MIN_PIXELS, _MAX_PIXELS = 56**2, 1280 * 28**2  # of a folder that states none
_MOST_ELONGATED = 200  # the longer side, in shorter ones


def _is_by_colour(value: Any) -> bool:
    return all(map(is_number, value if isinstance(value, list) else [value]))


_COUNT = ("a positive integer", lambda v: is_number(v) and isinstance(v, int) and v > 0)
_SWITCH = ("true or false", lambda v: isinstance(v, bool))
_BY_COLOUR = ("a number, or one of each colour", _is_by_colour)
_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "patch_size": _COUNT,
    "temporal_patch_size": _COUNT,
    "merge_size": _COUNT,
    "resample": ("the number of a filter of Pillow", lambda v: v in list(Image.Resampling)),
    "do_rescale": _SWITCH,
    "rescale_factor": ("a number", is_number),
    "do_normalize": _SWITCH,
    "image_mean": _BY_COLOUR,
    "image_std": _BY_COLOUR,
}


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """The settings of preprocessor_config.json, under its names, and what they do to a picture.

    Attributes:
      min_pixels: a picture of fewer pixels is enlarged.
      max_pixels: a picture of more pixels is reduced.
      patch_size: pixels on a side of a patch.
      temporal_patch_size: frames of a patch; a still picture is so many equal frames.
      merge_size: patches on a side of a visual token.
      resample: Pillow's number of the filter that resizes.
      do_rescale: whether the levels 0 to 255 are multiplied by `rescale_factor`.
      rescale_factor: see `do_rescale`.
      do_normalize: whether `image_mean` is subtracted then, and the result divided by `image_std`.
      image_mean: a number, or one of each colour.
      image_std: a number, or one of each colour.
    """

    min_pixels: float
    max_pixels: float
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    resample: int = int(Image.Resampling.BICUBIC)
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: float | Sequence[float] = (0.48145466, 0.4578275, 0.40821073)  # of CLIP
    image_std: float | Sequence[float] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_pretrained(
        cls, folder: pathlib.Path, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> "ImageProcessor":
        """Read the settings of a folder.

        Args:
          folder: a Hugging Face folder on the disk.
          min_pixels: replaces the folder's limit; None or 0 keeps it.
          max_pixels: replaces the folder's limit; None or 0 keeps it.

        Raises:
          UserError: the settings are missing or broken, or the two limits contradict.
        """
        nested = pretrained.read_json(folder / agreement.PROCESSOR).get("image_processor")
        settings = _object(folder, "image_processor", nested)
        settings = settings or pretrained.read_json(folder / agreement.PREPROCESSOR)
        if not settings:
            raise UserError(
                f"{folder}: no image settings; expected preprocessor_config.json (it comes with "
                f"every {TITLES} checkpoint)"
            )
        limits = _limits(folder, settings, min_pixels, max_pixels)
        stated = {name: settings[name] for name in _EXPECTED if settings.get(name) is not None}
        for name, value in stated.items():
            wanted, holds = _EXPECTED[name]
            if not holds(value):
                raise _broken(folder, name, value, wanted)
        return cls(*limits, **stated)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) that a picture of this size gets.

        Both are multiples of a visual token's side, their product lies within the limits, and their
        ratio is nearly kept.

        Raises:
          ValueError: the picture is too elongated.
        """
        side = self.patch_size * self.merge_size
        edges, pixels = (width, height), width * height
        if max(edges) > _MOST_ELONGATED * min(edges):
            raise ValueError(
                f"the aspect ratio of {width} x {height} pixels must be at most {_MOST_ELONGATED}"
            )
        rounded = [round(edge / side) * side for edge in edges]
        if math.prod(rounded) > self.max_pixels:
            scale = math.sqrt(pixels / self.max_pixels)
            rounded = [max(side, math.floor(edge / scale / side) * side) for edge in edges]
        elif math.prod(rounded) < self.min_pixels:
            scale = math.sqrt(self.min_pixels / pixels)
            rounded = [math.ceil(edge * scale / side) * side for edge in edges]
        return rounded[0], rounded[1]

    def levels(self, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
        """Return a picture in its new size, in levels of red, green and blue.

        What is transparent becomes white.

        Raises:
          ValueError: the picture is too elongated.
        """
        size = self.size(*image.size)
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        return np.asarray(image.convert("RGB").resize(size, self.resample))

    def values(self) -> Float32[np.ndarray, "3 256"]:
        """Return the model's input for each level of each colour."""
        values = np.tile(np.arange(256.0), (3, 1))
        if self.do_rescale:
            values *= self.rescale_factor
        values = values.astype(np.float32)
        if self.do_normalize:
            values = (values - _column(self.image_mean)) / _column(self.image_std)
        return values

    def picture(self, values: Float32[np.ndarray, "height width 3"]) -> Image.Image:
        """Return the picture whose pixels are these inputs of the model, rounded to 8 bits."""
        if self.do_normalize:
            values = values * np.array(self.image_std) + np.array(self.image_mean)
        if self.do_rescale:
            values = values / self.rescale_factor
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _column(by_colour: float | Sequence[float]) -> Float32[np.ndarray, "..."]:
    return np.array(by_colour, np.float32).reshape(-1, 1)


def _limits(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    min_pixels: int | None,
    max_pixels: int | None,
) -> tuple[float, float]:
    """Return the two limits, which have several names in such files."""
    size = _object(folder, "size", settings.get("size"))

    def limit(given: int | None, name: str, edge: str, default: int) -> float:
        value = settings.get(name) or size.get(edge) or size.get(name) or default
        if not is_number(value):
            raise _broken(folder, name, value, "a number")
        return given or value

    least = limit(min_pixels, "min_pixels", "shortest_edge", _MIN_PIXELS)
    most = limit(max_pixels, "max_pixels", "longest_edge", _MAX_PIXELS)
    if least > most:
        raise UserError(
            f"min_pixels={least} is above max_pixels={most}; set data.min_pixels or data.max_pixels"
        )
    return least, most


def _object(folder: pathlib.Path, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value or {}, Mapping):
        raise _broken(folder, name, value, "an object")
    return value or {}


def _broken(folder: pathlib.Path, name: str, value: Any, wanted: str) -> UserError:
    return UserError(
        f"{folder}: the image settings have {name} {value!r:.60}, expected {wanted}; download the "
        "folder again"
    )
