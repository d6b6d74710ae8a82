"""The pictures of a page, as data inside of it, up to a limit."""

import base64
import pathlib
import re
from typing import Any

MOST = 600  # pictures of a page
MOST_BYTES = 8_000_000  # of their files together
_NAME = re.compile(r"pictures/[0-9a-f]{16}\.jpg")  # as `data/thumbnails.py` names files
_JPEG = b"\xff\xd8\xff"


class Pictures:
    """The pictures that a page shows, each once.

    Attributes:
      files: what the page holds of each picture: {"data": its address} or {"missing": the reason}.
    """

    def __init__(self):
        self.files: list[dict[str, str]] = []
        self._places: dict[tuple[pathlib.Path, str], int] = {}
        self._bytes = 0

    def add(self, run: pathlib.Path, names: Any) -> list[int]:
        """Return the places of pictures in `files`; add those that are new.

        Args:
          run: the run's folder.
          names: "pictures" of a row, which may hold anything.
        """
        return [self._add(run, str(name)) for name in names] if isinstance(names, list) else []

    def _add(self, run: pathlib.Path, name: str) -> int:
        if (run, name) not in self._places:
            self._places[run, name] = len(self.files)
            self.files.append(self._file(run, name))
        return self._places[run, name]

    def _file(self, run: pathlib.Path, name: str) -> dict[str, str]:
        if not name:
            return {"missing": "the run could not make a small copy of the picture"}
        if not _NAME.fullmatch(name):
            return {"missing": f"{name:.80} is no name that a run gives to a picture"}
        if len(self.files) >= MOST or self._bytes >= MOST_BYTES:
            return {"missing": f"left out: a page holds {MOST} pictures, or {MOST_BYTES:,} bytes"}
        try:
            content = (run / name).read_bytes()
        except OSError:
            return {"missing": f"{name} is missing in the run's folder"}
        if not content.startswith(_JPEG):
            return {"missing": f"{name} is no JPEG file"}
        self._bytes += len(content)
        return {"data": "data:image/jpeg;base64," + base64.b64encode(content).decode()}
