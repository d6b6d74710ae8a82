"""Shaded, anti-aliased little solids, drawn once per (shape, colour, size) and then pasted."""

import functools

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (200, 44, 44),
    "blue": (48, 84, 214),
    "green": (40, 148, 62),
    "yellow": (236, 212, 48),
    "purple": (138, 52, 186),
    "gray": (186, 186, 190),
    "orange": (240, 140, 32),
    "cyan": (56, 200, 208),
    "pink": (244, 140, 184),
    "brown": (134, 80, 36),
}
_FINE = 4  # drawn this much larger, then averaged down


@functools.lru_cache(maxsize=512)
def sprite(shape: str, colour: str, pixels: int) -> Image.Image:
    """Return an RGBA picture, `pixels` wide and high, of one object with its shadow."""
    size = pixels * _FINE
    canvas = Image.new("RGBA", (size, size))
    base = np.asarray(COLOURS[colour], float)
    pen = ImageDraw.Draw(canvas)
    pen.ellipse(_box(0.10, 0.78, 0.98, 0.98, size), fill=(0, 0, 0, 90))
    _DRAW[shape](canvas, pen, base, size)
    return canvas.resize((pixels, pixels), Image.Resampling.BOX)


def _sphere(canvas, pen, base, size):
    across, down = _grid(size)
    x, y = (across - 0.5) / 0.42, (down - 0.5) / 0.42
    inside = x * x + y * y <= 1
    z = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    light = np.clip(-0.45 * x - 0.6 * y + 0.66 * z, 0, 1)
    _shade(canvas, base, inside, 0.42 + 0.68 * light, shine=light**24)


def _cube(canvas, pen, base, size):
    left, middle, right, back = 0.10, 0.56, 0.90, 0.70
    front = [(left, 0.34), (middle, 0.34), (middle, 0.92), (left, 0.92)]
    top = [(left, 0.34), (left + right - back + 0.12, 0.10), (right, 0.10), (middle, 0.34)]
    side = [(middle, 0.34), (right, 0.10), (right, 0.68), (middle, 0.92)]
    for face, brightness in ((front, 0.92), (top, 1.22), (side, 0.62)):
        pen.polygon([(x * size, y * size) for x, y in face], fill=_tint(base, brightness))


def _cylinder(canvas, pen, base, size):
    across, down = _grid(size)
    x = (across - 0.5) / 0.34
    bend = 0.10 * np.sqrt(np.clip(1 - x * x, 0, 1))
    inside = (np.abs(x) <= 1) & (down >= 0.22) & (down <= 0.82 + bend)
    _shade(canvas, base, inside, 0.55 + 0.5 * np.clip(np.cos(1.4 * (x + 0.45)), 0, 1))
    pen.ellipse(_box(0.16, 0.10, 0.84, 0.32, size), fill=_tint(base, 1.25))


def _cone(canvas, pen, base, size):
    across, down = _grid(size)
    reach = np.clip((down - 0.06) / 0.76, 1e-6, None)
    x = (across - 0.5) / (0.40 * reach)
    bend = 0.10 * np.sqrt(np.clip(1 - ((across - 0.5) / 0.40) ** 2, 0, 1))
    inside = (np.abs(x) <= 1) & (down >= 0.06) & (down <= 0.82 + bend)
    _shade(canvas, base, inside, 0.50 + 0.6 * np.clip(np.cos(1.4 * (x + 0.45)), 0, 1))


def _ring(canvas, pen, base, size):
    across, down = _grid(size)
    x, y = across - 0.5, down - 0.5
    radius = np.hypot(x, y)
    tube = (radius - 0.30) / 0.13
    height = np.sqrt(np.clip(1 - tube * tube, 0, 1))
    outward = np.clip(tube, -1, 1) / np.clip(radius, 1e-6, None)
    light = np.clip(-0.45 * x * outward - 0.6 * y * outward + 0.66 * height, 0, 1)
    _shade(canvas, base, np.abs(tube) <= 1, 0.45 + 0.65 * light, shine=light**24)


def _star(canvas, pen, base, size):
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, 0.19, 0.46) * size
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] + 0.5 * size
    for i in range(10):  # facets, lit in turn, like a folded star
        facet = [tuple(points[i]), tuple(points[(i + 1) % 10]), (size / 2, size / 2)]
        pen.polygon(facet, fill=_tint(base, 1.15 if i % 2 else 0.75))


_DRAW = {
    "cube": _cube,
    "sphere": _sphere,
    "cylinder": _cylinder,
    "cone": _cone,
    "ring": _ring,
    "star": _star,
}


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates (across, down) of every fine pixel, in 0..1."""
    line = (np.arange(size) + 0.5) / size
    return np.meshgrid(line, line)


def _shade(canvas, base, inside, brightness, shine=0.0):
    colour = base * np.asarray(brightness)[..., None] + 150 * np.asarray(shine)[..., None]
    pixels = np.clip(colour, 0, 255).astype(np.uint8)
    solid = Image.fromarray(pixels)
    canvas.paste(solid, (0, 0), Image.fromarray((inside * 255).astype(np.uint8)))


def _tint(base, brightness: float) -> tuple[int, ...]:
    return (*(int(min(255, c * brightness)) for c in base), 255)


def _box(left, top, right, bottom, size):
    return [left * size, top * size, right * size, bottom * size]
