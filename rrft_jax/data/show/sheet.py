"""A contact sheet: the pictures of many samples in one, as the model sees them."""

import dataclasses
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from rrft_jax.console import visible

_SIDE = 192  # pixels of a cell's picture, at most
_GAP, _LINE = 8, 14  # pixels between cells, and of a line of text
_COLUMNS = 6
_FONT = 11  # its size in pixels


@dataclasses.dataclass(frozen=True)
class Cell:
    """A picture with lines of text under it; `picture` is None for a sample without one."""

    picture: Image.Image | None
    captions: tuple[str, str, str]  # longer ones are cut


def sheet(cells: Sequence[Cell]) -> Image.Image:
    """Return one picture of all cells, in rows of at most six."""
    columns = min(_COLUMNS, len(cells))
    width, height = _SIDE + _GAP, _SIDE + 3 * _LINE + _GAP
    rows = -(-len(cells) // columns)
    whole = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(_FONT)
    for number, cell in enumerate(cells):
        x, y = (
            _GAP + place * size
            for place, size in zip((number % columns, number // columns), (width, height))
        )
        if cell.picture is not None:
            picture = ImageOps.contain(cell.picture.convert("RGB"), (_SIDE, _SIDE))
            whole.paste(picture, (x, y + _SIDE - picture.height))
        for line, caption in enumerate(cell.captions):
            text = visible(caption)
            while text and draw.textlength(text, font) > _SIDE:
                text = text[:-1]
            draw.text((x, y + _SIDE + line * _LINE), text, "black", font)
    return whole
