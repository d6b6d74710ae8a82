"""Small copies of pictures that a run keeps in its folder, for the report and for trackers.

A run's data may be gone, or lie on another machine, when somebody looks at the run. Each process
makes the copies of its own rows, and the first process writes them.
"""

import hashlib
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from rrft_jax import json_files
from rrft_jax.data.pictures import BadSample, open_image

FOLDER = "pictures"
SIDE = 320  # pixels of the longer side at most
_QUALITY = 85  # of JPEG


def thumbnails(pictures: Sequence[Any]) -> list[bytes]:
    """Return a small JPEG file of each picture; empty bytes for one that can't be read.

    Args:
      pictures: paths, PIL images, bytes or drawings, as `Example.images` has them.
    """
    return [_thumbnail(picture) for picture in pictures]


class Thumbnails:
    """The folder of a run's small pictures. A picture's name is a hash of its content."""

    def __init__(self, workdir: pathlib.Path, writes: bool = True):
        """Use `workdir/pictures`.

        Args:
          workdir: the run's folder.
          writes: False in a process that must not write, because another one writes the folder.
        """
        self._workdir, self._writes = workdir, writes

    def keep(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Write the files under a row's "pictures"; return the row with their names instead.

        A name is a path that starts at the run's folder. It is empty for a picture without content.
        """
        if "pictures" not in row:
            return dict(row)
        return {**row, "pictures": [self._keep(content) for content in row["pictures"]]}

    def _keep(self, content: bytes) -> str:
        if not content:
            return ""
        name = f"{FOLDER}/{hashlib.blake2b(content, digest_size=8).hexdigest()}.jpg"
        file = self._workdir / name
        if self._writes and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            json_files.replace(file, content)
        return name


def _thumbnail(picture: Any) -> bytes:
    try:
        image = open_image(picture).convert("RGB")
    except (BadSample, ValueError, OSError):
        return b""
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return file.getvalue()
