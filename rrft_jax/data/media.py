"""The pictures of a record: the keys that name them, and their places in the question.

No picture is left out silently. A value that looks like a picture under a key that is not read is
refused with an error that names the key. So are videos, sounds and the placeholders of other
models.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from rrft_jax.data.pictures import BadSample

# Keys of pictures. The first one in a record is read; others must name the same pictures.
PICTURES = (
    *("image", "images", "image_path", "image_paths", "image_file", "image_files"),
    *("image_url", "image_urls", "img", "imgs", "img_path", "img_paths", "img_file"),
    *("picture", "pictures", "picture_path", "photo", "photos", "photo_path"),
    *("pixel", "pixels", "pixel_values"),
)
# Keys of any file or name: they name a picture if the value ends like a picture's file name.
_FILES = (
    *("path", "paths", "file", "files", "file_name", "file_names", "filename", "file_path"),
    *("image_name", "image_names", "img_name"),
)

_PICTURE_FILE = re.compile(
    r"[^\n]{1,4000}\.(?:png|jpe?g|jfif|webp|gif|bmp|tiff?|p[pgbn]m|jp2|j2k|avif|heic|svg)"
    r"(?:[?#]\S*)?",
    re.IGNORECASE,
)
_FILM_FILE = re.compile(
    r"[^\n]{1,4000}\.(?:mp4|avi|mov|mkv|webm|m4v|mpe?g|flv|wmv|wav|mp3|flac|m4a|ogg|opus|aac)"
    r"(?:[?#]\S*)?",
    re.IGNORECASE,
)
_FILM_KEY = re.compile(r"(?:videos?|audios?)(?:_?(?:path|file|url|name)s?)?", re.IGNORECASE)
_KINDS = ("data_type", "modality", "media_type")  # keys that may say "video"

# What the bytes of PNG, JPEG, GIF, WEBP and BMP files begin with in base64.
_BASE64 = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-3])[A-Za-z0-9+/=\s]{24,}")

PLACEHOLDER = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>|<image>)<\|vision_end\|>|<\|image_pad\|>|<image>"
)
_OTHER_PLACEHOLDER = re.compile(
    r"</?\|?(?:image|img)[\w -]{0,40}\|?/?>|<\|vision_\w{1,10}\|>"
    r"|<im(?:age|g)\b[^<>\n]{0,200}>|!\[[^\[\]\n]{0,80}\]\([^()\n]{1,300}\)",
    re.IGNORECASE,
)
_FILM_PLACEHOLDER = re.compile(r"</?\|?(?:video|audio)[\w -]{0,40}\|?/?>", re.IGNORECASE)


def image_names(record: Mapping[str, Any]) -> list[str]:
    """Return the paths of a record's pictures, in order.

    Raises:
      BadSample: a picture is no path, or two keys name different pictures.
    """
    found: dict[str, list[str]] = {}
    for key in (*PICTURES, *_FILES):
        images = record.get(key)
        if is_nothing(images) or (key in _FILES and not _is_picture(images)):
            continue
        found[key] = [
            _name(image, key) for image in (images if isinstance(images, list) else [images])
        ]
    first = next(iter(found), None)
    for key, names in found.items():
        if not _same(names, found[first]):
            raise _malformed(
                f"{first!r} and {key!r} name different pictures, {found[first]!r:.60} and "
                f"{names!r:.60}; keep one of the keys"
            )
    return found[first] if first else []


def file_keys(record: Mapping[str, Any]) -> list[str]:
    """Return the keys for any file under which a record names a picture."""
    return [key for key in _FILES if _is_picture(record.get(key))]


def check_media(record: Mapping[str, Any], names: Collection[str], texts: Collection[str]) -> None:
    """Refuse a record, or a turn of a chat, with pictures, videos or sounds that are not read.

    Args:
      record: an object of the data set.
      names: the pictures that are read.
      texts: keys whose values are read as texts, or cannot hold a picture.

    Raises:
      BadSample: there is such a key; the message names it.
    """
    for key, value in record.items():
        if not value or is_nothing(value) or key in texts:
            continue
        says = key in _KINDS and isinstance(value, str) and value.lower() in ("video", "audio")
        is_id = key == "id" or key.endswith("_id")  # often the name of a file
        if says or _FILM_KEY.fullmatch(key) or (not is_id and any(map(_is_film, _values(value)))):
            raise _malformed(
                f"{key!r} is {value!r:.60}: videos and sounds are not read; leave such records out"
            )
        if is_id or not (key in PICTURES or _is_picture(value)):
            continue
        if not all(isinstance(v, str) and _is_among(v, names) for v in _values(value)):
            raise _malformed(
                f"{key!r} is {value!r:.60}: a picture under this key is not read; name it "
                "'image' or 'images', or remove the key"
            )


def check_nested(record: Mapping[str, Any]) -> None:
    """Refuse a record with pictures only inside of another object: {"meta": {"image": ...}}.

    Raises:
      BadSample: there is such an object; the message names both keys.
    """
    for key, value in record.items():
        for name, inner in value.items() if isinstance(value, dict) else ():
            if _is_picture(inner) or (name in PICTURES and not is_nothing(inner)):
                raise _malformed(
                    f"{key!r} has {name!r}, {inner!r:.60}: a picture under this key is not read; "
                    "name it 'image' or 'images' in the record itself"
                )


def place_pictures(question: str, pictures: int) -> tuple[str, tuple[int, ...]]:
    """Take the placeholders out of a question.

    Returns:
      The text without placeholders, and `Example.image_offsets`: the place of each picture, or ()
      if all pictures stand before the text, as they do without placeholders.

    Raises:
      BadSample: the numbers of placeholders and pictures differ, or a placeholder is unknown.
    """
    pieces = PLACEHOLDER.split(question)
    count = len(pieces) - 1
    for piece in pieces:
        check_text(piece, "question")
    if count not in (0, pictures):
        raise _malformed(
            f"{count} <image> in the question for {pictures} pictures; expected as many, or none"
        )
    if not count:
        return question, ()
    # White space after leading pictures and at the end separates nothing.
    leading = next((k for k, piece in enumerate(pieces) if piece.strip()), count)
    pieces[:leading] = [""] * leading
    pieces[leading] = pieces[leading].lstrip()
    pieces[-1] = pieces[-1].rstrip()
    if leading == count:
        return pieces[-1], ()
    offsets, text = [], ""
    for piece in pieces[:-1]:
        text += piece
        offsets.append(len(text))
    return text + pieces[-1], tuple(offsets)


def check_text(text: str, what: str) -> None:
    """Refuse placeholders in a text in which none of them can stand for a picture.

    Raises:
      BadSample: there is a placeholder; the message names it.
    """
    if film := _FILM_PLACEHOLDER.search(text):
        raise _malformed(f"{film[0]} in the {what}: videos and sounds are not read")
    if other := PLACEHOLDER.search(text) or _OTHER_PLACEHOLDER.search(text):
        raise _malformed(
            f"{other[0]} in the {what} stands for no picture; write <image> in the question, once "
            "for each picture"
        )


def is_nothing(value: Any) -> bool:
    """Return whether a value means a missing one, such as the NaN that some tools write."""
    empty = value is None or (isinstance(value, str | list) and not value)
    return empty or (isinstance(value, float) and math.isnan(value))


def are_pictures(values: Collection[Any]) -> bool:
    """Return whether any of these values looks like a picture."""
    return any(map(_is_picture, values))


def is_base64(text: str) -> bool:
    """Return whether a text looks like a picture's bytes in base64."""
    return bool(_BASE64.match(text))


def _name(image: Any, key: str) -> str:
    name = image.get("path") if isinstance(image, dict) else image
    if not isinstance(name, str) or not name:
        raise _malformed(f"a picture is {image!r:.60} under {key!r}; expected a path")
    return name


def _same(names: list[str], others: list[str]) -> bool:
    return len(names) == len(others) and all(_ends_alike(a, b) for a, b in zip(names, others))


def _is_among(name: str, names: Collection[str]) -> bool:
    return any(_ends_alike(name, other) for other in names)


def _ends_alike(name: str, other: str) -> bool:
    """Return whether two paths may name one file; one path may lack leading folders."""
    return f"/{name}".endswith(f"/{other}") or f"/{other}".endswith(f"/{name}")


def _values(value: Any) -> list[Any]:
    """Return the values of a list, or a single value; an object gives the file that it names."""
    values = []
    for one in value if isinstance(value, list) else [value]:
        file = one if isinstance(one, dict) else {}
        values.append(file.get("path") or file.get("url") or file.get("bytes") or one)
    return values


def _is_picture(value: Any) -> bool:
    return any(
        isinstance(v, bytes)
        or isinstance(v, str)
        and bool(_PICTURE_FILE.fullmatch(v) or v.startswith("data:image/") or is_base64(v))
        for v in _values(value)
    )


def _is_film(value: Any) -> bool:
    return isinstance(value, str) and (
        bool(_FILM_FILE.fullmatch(value)) or value.startswith(("data:video/", "data:audio/"))
    )


def _malformed(message: str) -> BadSample:
    return BadSample("malformed", message)
