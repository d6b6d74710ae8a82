"""The pictures of a record: the keys that hold them, their forms, their places in the question.

A picture is a path, an address (`file:`, `data:`), the bytes of a picture file, such bytes as
base64 text, or {"bytes": ..., "path": ...} as Hugging Face data sets have it.

No picture is left out silently. A value that looks like a picture under a key that is not read is
refused with an error that names the key. So are videos, sounds and the placeholders of other
models.
"""

import base64
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from rrft_jax.data.pictures import BadSample

# Keys of pictures. The first one in a record is read; others must name the same pictures.
PICTURES = (
    *("image", "images", "image_path", "image_paths", "image_file", "image_files"),
    *("image_url", "image_urls", "img", "imgs", "img_path", "img_paths", "img_file"),
    *("picture", "pictures", "picture_path", "photo", "photos", "photo_path"),
    *("pixel", "pixels", "pixel_values"),
)
# Keys of any file or name: they name a picture if the value ends like a picture's file name.
FILES = (
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

# What the bytes of PNG, JPEG, GIF, WEBP, BMP, TIFF, JPEG 2000 and AVIF files begin with in base64.
_BASE64 = re.compile(
    r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-3]|SUkqA|TU0AK|AAAADGpQ|AAAA..Z0eXBhdm)"
    r"[A-Za-z0-9+/=\s]{24,}"
)
_DATA_URL = re.compile(r"data:[^,]{0,200}?;base64,", re.IGNORECASE)

PLACEHOLDER = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>|<image>)<\|vision_end\|>|<\|image_pad\|>|<image>"
)
_OTHER_PLACEHOLDER = re.compile(
    r"</?\|?(?:image|img)[\w -]{0,40}\|?/?>|<\|vision_\w{1,10}\|>"
    r"|<im(?:age|g)\b[^<>\n]{0,200}>|!\[[^\[\]\n]{0,80}\]\([^()\n]{1,300}\)",
    re.IGNORECASE,
)
_FILM_PLACEHOLDER = re.compile(r"</?\|?(?:video|audio)[\w -]{0,40}\|?/?>", re.IGNORECASE)


class Picture(NamedTuple):
    """A picture of a record: the path or address of its file, or its content, or both."""

    name: str = ""
    content: bytes | None = None


def read_pictures(record: Mapping[str, Any]) -> list[Picture]:
    """Return the pictures of a record, in order.

    Raises:
      BadSample: a value is no picture, or two keys hold different pictures.
    """
    found = {
        key: pictures_of(record[key], key)
        for key in (*PICTURES, *FILES)
        if key in record
        and not _is_empty(record[key])
        and (key in PICTURES or _is_picture(record[key]))
    }
    first = next(iter(found), None)
    for key, pictures in found.items():
        if not same(pictures, found[first]):
            raise _malformed(
                f"{first!r} and {key!r} name different pictures, {record[first]!r:.60} and "
                f"{record[key]!r:.60}; keep one of the keys, or choose it by "
                f"--config.data.columns.image={first}"
            )
    return found[first] if first else []


def pictures_of(value: Any, key: str) -> list[Picture]:
    """Return the pictures that a value holds, one or a list; `key` names it in messages.

    Raises:
      BadSample: it holds something else.
    """
    return [_picture(one, key) for one in (value if isinstance(value, list) else [value])]


def same(pictures: list[Picture], others: list[Picture]) -> bool:
    """Return whether two lists may hold the same pictures."""
    return len(pictures) == len(others) and all(map(_alike, pictures, others))


def file_keys(record: Mapping[str, Any]) -> list[str]:
    """Return the keys for any file under which a record names a picture."""
    return [key for key in FILES if key in record and _is_picture(record[key])]


def check_media(record: Mapping[str, Any], pictures: list[Picture], texts: Collection[str]) -> None:
    """Refuse a record, or a turn of a chat, with pictures, videos or sounds that are not read.

    Args:
      record: an object of the data set.
      pictures: the pictures that are read.
      texts: keys whose values are read as texts, or cannot hold a picture.

    Raises:
      BadSample: there is such a key; the message names it.
    """
    for key, value in record.items():
        if not value or _is_empty(value) or key in texts:
            continue
        says = key in _KINDS and isinstance(value, str) and value.lower() in ("video", "audio")
        is_id = key == "id" or key.endswith("_id")  # often the name of a file
        if says or _FILM_KEY.fullmatch(key) or (not is_id and any(map(_is_film, _values(value)))):
            raise _malformed(
                f"{key!r} is {value!r:.60}: videos and sounds are not read; leave such records out"
            )
        if is_id or not (key in PICTURES or _is_picture(value)):
            continue
        if not _are_among(value, pictures):
            raise _malformed(
                f"{key!r} is {value!r:.60}: a picture under this key is not read; name it "
                "'image' or 'images', or remove the key; --config.data.columns.image=COLUMN "
                "chooses the pictures, and leaves others to the rewards"
            )


def check_nested(record: Mapping[str, Any]) -> None:
    """Refuse a record with pictures only inside of another object: {"meta": {"image": ...}}.

    Raises:
      BadSample: there is such an object; the message names both keys.
    """
    for key, value in record.items():
        for name, inner in value.items() if isinstance(value, dict) else ():
            if _is_picture(inner) or (name in PICTURES and not _is_empty(inner)):
                raise _malformed(
                    f"{key!r} has {name!r}, {inner!r:.60}: a picture under this key is not read; "
                    "name it 'image' or 'images' in the record itself, or choose "
                    f"--config.data.columns.image={key}.{name}"
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


def are_bytes(value: Any) -> bool:
    """Return whether a value holds the bytes of files, as they are or under "bytes"."""
    return any(
        isinstance(one.get("bytes") if isinstance(one, dict) else one, bytes)
        for one in (value if isinstance(value, list) else [value])
    )


def is_base64(text: str) -> bool:
    """Return whether a text looks like a picture's bytes in base64."""
    return bool(_BASE64.match(text))


def _is_empty(value: Any) -> bool:
    """Return whether a value holds no picture; a table has {"bytes": None, "path": None} for it."""
    fields = isinstance(value, dict) and bool(value) and value.keys() <= {"bytes", "path"}
    return is_nothing(value) or (fields and not any(value.values()))


def _picture(value: Any, key: str) -> Picture:
    name, content = value, None
    if isinstance(value, dict):
        content, name = value.get("bytes"), value.get("path") or value.get("url")
    elif isinstance(value, bytes) or (isinstance(value, str) and is_base64(value)):
        name, content = None, value
    if isinstance(name, str) and (address := _DATA_URL.match(name)):
        name, content = None, name[address.end() :]
    if isinstance(content, str):
        content = _decoded(content)
    if (content and isinstance(content, bytes)) or (name and isinstance(name, str)):
        return Picture(name if isinstance(name, str) else "", content or None)
    raise _malformed(f"a picture is {value!r:.60} under {key!r}; expected a path, or its bytes")


def _decoded(text: str) -> bytes:
    text = "".join(text.split()).rstrip("=")  # many programs leave the padding out
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError as error:  # also for letters that are not ASCII
        raise BadSample("picture", f"{text:.40}...: no picture in base64: {error}") from None


def _alike(one: Picture, other: Picture) -> bool:
    """Return whether two pictures may be one; one path may lack leading folders."""
    if one.content and other.content:
        return one.content == other.content
    a, b = f"/{one.name}", f"/{other.name}"
    return bool(one.name and other.name) and (a.endswith(b) or b.endswith(a))


def _are_among(value: Any, pictures: list[Picture]) -> bool:
    try:
        return all(any(_alike(one, p) for p in pictures) for one in pictures_of(value, ""))
    except BadSample:
        return False


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
