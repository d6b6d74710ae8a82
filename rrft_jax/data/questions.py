"""A question that somebody asks from Python -> `Example`; its pictures may be in memory.

("scene.png", "How many?")
([first, second], "What moved from <image> to <image>?")
{"image": array, "problem": "How many?"}
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from rrft_jax.data.media import place_pictures
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.records import read_record
from rrft_jax.tasks import CUSTOM, Drawing, Example


def read_question(row: Any, task: str, columns: Mapping[str, str]) -> Example:
    """Return the example of a row, with the answer "" if the row has none.

    Args:
      row: (pictures, question), a record of a data set, or an example, which is returned as it is.
        Pictures are one, a list of them, or None. A picture is a path, a PIL image, the bytes of a
        picture file, or an array of uint8 [height, width, 3].
      task: the task of the question.
      columns: part of a record -> column, `data.columns`.

    Raises:
      BadSample: the row has no such form, or its question and pictures don't fit together.
    """
    if isinstance(row, Example):
        return row
    if isinstance(row, Mapping):
        held: dict[str, Any] = {}
        record = _named(row, held)

        def find_image(name: str) -> Any:
            return held.get(name, os.path.expanduser(name))

        # The answer only decides which kind of answer is asked for, so any or none will do.
        example = read_record(record, "", CUSTOM, find_image, mapped=columns)
        return dataclasses.replace(example, task=task)
    if not isinstance(row, list | tuple) or len(row) != 2:
        raise _malformed(f"{row!r:.60}: expected (pictures, question), or a record of a data set")
    pictures, question = row
    if not isinstance(question, str) or not question.strip():
        raise _malformed(f"the question is {question!r:.60}; expected a text")
    if not isinstance(pictures, list | tuple):
        pictures = [] if pictures is None else [pictures]
    problem, offsets = place_pictures(question, len(pictures))
    images = tuple(map(_picture, pictures))
    return Example("", images, problem, "", None, task, image_offsets=offsets)


def _picture(given: Any) -> Any:
    """Return a picture in a form that `open_image` opens."""
    if isinstance(given, str | os.PathLike):
        return os.path.expanduser(given)
    if isinstance(given, Image.Image | Drawing):
        return given
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if not hasattr(given, "__array__"):
        raise _malformed(
            f"a picture is {type(given).__name__}; expected a path, a PIL image, the bytes of a "
            "file, or an array"
        )
    array = np.asarray(given)
    channels = {2: 1, 3: array.shape[-1]}.get(array.ndim)
    if array.dtype != np.uint8 or channels not in (1, 3, 4):
        raise _malformed(
            f"a picture is an array of {array.dtype} {list(array.shape)}; expected uint8 [height, "
            "width, 3]"
        )
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _named(value: Any, held: dict[str, Any]) -> Any:
    """Return a part of a record as a file has it, with names for the pictures in memory.

    Args:
      value: the part.
      held: takes up the pictures, by their names.
    """
    if isinstance(value, Mapping):
        return {key: _named(inner, held) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_named(inner, held) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Image.Image | Drawing) or getattr(value, "ndim", 0) > 1:
        name = f"picture {len(held)} in memory.png"
        held[name] = _picture(value)
        return name
    return value


def _malformed(message: str) -> BadSample:
    return BadSample("malformed", message)
