"""Plane figures drawn true to scale, and labels that keep clear of the lines and of each other.

A point is a complex number, y upwards, so a turn is a product and a mirror image a conjugate. All
else is named by the points' letters: "AB" is a line, "ABC" the angle at B. Lines are drawn four
times as large and averaged down. A label tries the places where a reader would look for it, the
most usual first. It takes the first of the places that hide the fewest pixels of the drawing.
"""

import cmath
import dataclasses
import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK = (253, 252, 248), (38, 42, 58)
GIVEN, UNKNOWN = (28, 84, 176), (206, 48, 40)
TINTS = ((226, 238, 252), (252, 236, 218), (228, 244, 228), (244, 232, 248), (250, 242, 208))
GRID = 7  # pixels: half of a patch of Qwen2-VL
_FINE = 4  # drawn this much larger, then averaged down


@dataclasses.dataclass(frozen=True)
class Figure:
    """The content of a drawing. Points with a lower-case name have no label in the picture."""

    points: dict[str, complex]
    faces: tuple[str, ...] = ()  # polygons, tinted; their sides are lines
    lines: tuple[str, ...] = ()
    circles: tuple[str, ...] = ()  # "OA": the circle about O through A
    marks: dict[str, str] = dataclasses.field(default_factory=dict)  # {"AB": "7.5", "ABC": "x"}
    right: tuple[str, ...] = ()  # angles marked by a little square
    equal: tuple[str, ...] = ()  # lines marked by a tick
    parallel: tuple[str, ...] = ()  # lines marked by an arrowhead
    tint: int = 0

    def turned(self, degrees: float, mirrored: bool) -> "Figure":
        """Return the same figure, turned anticlockwise and then mirrored if asked."""
        points = {name: at * ray(degrees) for name, at in self.points.items()}
        if mirrored:
            points = {name: at.conjugate() for name, at in points.items()}
        return dataclasses.replace(self, points=points)

    def marked(self, values: dict[str, float | str]) -> "Figure":
        """Return the same figure with more lengths ("AB") and angles ("ABC", degrees) marked."""
        texts = {n: v if isinstance(v, str) else f"{v:g}" for n, v in values.items()}
        return dataclasses.replace(self, marks={**self.marks, **texts})

    @property
    def strokes(self) -> list[str]:
        sides = [a + b for face in self.faces for a, b in zip(face, face[1:] + face[0])]
        return sides + list(self.lines)


@dataclasses.dataclass(frozen=True)
class Label:
    text: str
    centre: complex  # in pixels, y downwards
    half: complex  # half of its width and height
    colour: tuple[int, int, int]


def draw(figure: Figure, size: int) -> Image.Image:
    """Draw the figure with its labels, `size` pixels wide and high."""
    at, letter = fit(figure, size), letter_height(size)
    canvas = Image.new("RGB", (size * _FINE, size * _FINE), PAPER)
    pen = ImageDraw.Draw(canvas)
    width = (0.6 + size / 220) * _FINE
    tint = TINTS[figure.tint]
    fine = {name: z * _FINE for name, z in at.items()}

    for circle in figure.circles:
        centre, radius = fine[circle[0]], abs(fine[circle[1]] - fine[circle[0]])
        pen.ellipse(_box(centre, radius), fill=PAPER if figure.faces else tint)
    for face in figure.faces:
        pen.polygon([_xy(fine[name]) for name in face], fill=tint)
    for name in (name for name in figure.marks if len(name) == 3):
        colour = _colour(figure.marks[name])
        start, sweep, radius = _arc(name, at, letter)
        box = _box(fine[name[1]], radius * _FINE)
        pen.pieslice(box, start, start + sweep, fill=_mix(colour, tint, 0.25))
        pen.arc(box, start, start + sweep, fill=colour, width=round(0.8 * width))
    for name in figure.right:
        corner, *legs = (fine[name[i]] for i in (1, 0, 2))
        one, two = (0.7 * letter * _FINE * _unit(leg - corner) for leg in legs)
        _line(pen, [corner + one, corner + one + two, corner + two], INK, 0.8 * width)
    for circle in figure.circles:
        radius = abs(fine[circle[1]] - fine[circle[0]])
        pen.ellipse(_box(fine[circle[0]], radius + width / 2), outline=INK, width=round(width))
        pen.ellipse(_box(fine[circle[0]], 1.6 * width), fill=INK)
    for a, b in figure.strokes:
        _line(pen, [fine[a], fine[b]], INK, width)
    for a, b in figure.equal:
        middle, along = (fine[a] + fine[b]) / 2, 0.3 * letter * _FINE * _unit(fine[b] - fine[a])
        _line(pen, [middle - 1j * along, middle + 1j * along], INK, width)
    for a, b in figure.parallel:
        tip, along = (fine[a] + 5 * fine[b]) / 6, 0.35 * letter * _FINE * _unit(fine[b] - fine[a])
        wings = [along * cmath.rect(1.2, turn) for turn in (2.5, -2.5)]
        _line(pen, [tip + wings[0], tip, tip + wings[1]], INK, width)

    image = canvas.resize((size, size), Image.Resampling.BOX)
    write(image, labels(figure, size))
    return image


def on_grid(text: str, centres: np.ndarray, size: int) -> np.ndarray:
    """Return the centres [n] nearest to these for which a text begins on a grid of half a patch.

    The shift is too small to notice. But a small model then has to know a digit in four places of a
    patch, not in two hundred.
    """
    left, top, right, bottom = _font(letter_height(size)).getbbox(text)
    middle = complex(left + right, top + bottom) / 2
    starts = (centres - middle) / GRID
    return GRID * (np.round(starts.real) + 1j * np.round(starts.imag)) + middle


def write(image: Image.Image, placed: list[Label]) -> None:
    """Write labels into a picture."""
    pen, font = ImageDraw.Draw(image), _font(letter_height(image.width))
    for label in placed:
        left, top, right, bottom = font.getbbox(label.text)
        corner = label.centre - complex(left + right, top + bottom) / 2
        pen.text((round(corner.real), round(corner.imag)), label.text, label.colour, font)


def labels(figure: Figure, size: int) -> list[Label]:
    """Find a place for each label; the sharpest angle goes first, because it has least choice."""
    at, letter = fit(figure, size), letter_height(size)
    angles = [name for name in figure.marks if len(name) == 3]
    wanted = [
        (f"{figure.marks[name]}°", _angle_spots(name, at, letter))
        for name in sorted(angles, key=lambda name: _arc(name, at, letter)[1])
    ]
    for name, text in figure.marks.items():
        if len(name) == 2:
            wanted.append((text, _length_spots(name, at, letter, _half(text, letter))))
    wanted += [(name, _name_spots(name, at, letter)) for name in at if name.isupper()]

    taken, placed = ink(figure, size), []
    for text, spots in wanted:
        spots, places = np.unique(on_grid(text, spots, size), return_index=True)
        half = _half(text, letter)
        room = half + (1 + 1j) * max(1, 0.1 * letter)
        gaps = spots[:, None] - taken
        hidden = ((abs(gaps.real) < room.real) & (abs(gaps.imag) < room.imag)).sum(1)
        away = spots - size / 2 * (1 + 1j)
        outside = (abs(away.real) + half.real > size / 2) | (abs(away.imag) + half.imag > size / 2)
        cost = hidden / letter + 0.01 * places + 1000 * outside  # earlier places are the usual ones
        best = complex(spots[np.argmin(cost)])
        placed.append(Label(text, best, half, _colour(text)))
        across, down = (np.arange(-side, side + 1, 0.8) for side in (half.real, half.imag))
        taken = np.concatenate([taken, (best + across[:, None] + 1j * down).ravel()])
    return placed


def _angle_spots(name: str, at: dict[str, complex], letter: float) -> np.ndarray:
    """Return places just beyond the mark on the bisector, then further off and a little beside."""
    start, sweep, radius = _arc(name, at, letter)
    turns = np.radians(start + sweep * np.array([0.5, 0.58, 0.42, 0.66, 0.34]))
    reach = radius + letter * np.arange(0.6, 3.4, 0.1)
    return at[name[1]] + (reach[:, None] * np.exp(1j * turns)).ravel()


def _length_spots(name: str, at: dict[str, complex], letter: float, half: complex) -> np.ndarray:
    """Return places beside the line's middle, the figure's outer side first, then near its ends."""
    a, b = (at[end] for end in name)
    normal = 1j * _unit(b - a)
    inward = sum(at.values()) / len(at) - (a + b) / 2
    if (inward * normal.conjugate()).real > 0:
        normal = -normal
    off = abs(normal.real) * half.real + abs(normal.imag) * half.imag + 0.35 * letter
    shares = np.array([0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74])
    sides = (off, -off, off + 0.5 * letter, -off - 0.5 * letter)
    return np.concatenate([a + (b - a) * shares + side * normal for side in sides])


def _name_spots(name: str, at: dict[str, complex], letter: float) -> np.ndarray:
    """Return places around the point, away from the figure's middle first."""
    outward = at[name] - sum(at.values()) / len(at)
    turns = np.array(sorted(np.arange(-12, 12) * np.pi / 12, key=abs)) + cmath.phase(outward)
    reach = letter * np.array([0.85, 1.05, 1.3, 1.6])
    return at[name] + (np.exp(1j * turns)[:, None] * reach).ravel()


def ink(figure: Figure, size: int) -> np.ndarray:
    """Return points along everything drawn except labels, a pixel apart, as complex numbers."""
    at, letter = fit(figure, size), letter_height(size)
    runs = [at[a] + (at[b] - at[a]) * np.linspace(0, 1, size) for a, b in figure.strokes]
    turn = np.exp(2j * np.pi * np.linspace(0, 1, 4 * size))
    runs += [at[c[0]] + abs(at[c[1]] - at[c[0]]) * turn for c in figure.circles]
    for name in (name for name in figure.marks if len(name) == 3):
        start, sweep, radius = _arc(name, at, letter)
        runs.append(at[name[1]] + radius * np.exp(1j * np.radians(start + sweep * turn.real**2)))
    for name in figure.right:
        corner, *legs = (at[name[i]] for i in (1, 0, 2))
        one, two = (0.7 * letter * _unit(leg - corner) for leg in legs)
        runs.append(corner + one + two * np.linspace(0, 1, 20))
        runs.append(corner + two + one * np.linspace(0, 1, 20))
    for a, b in figure.equal + figure.parallel:
        share = 0.5 if a + b in figure.equal else 5 / 6
        across = 0.35j * letter * _unit(at[b] - at[a])
        runs.append(at[a] + (at[b] - at[a]) * share + across * np.linspace(-1, 1, 20))
    return np.concatenate(runs)


def letter_height(size: int) -> float:
    """Return the font size in pixels; it is relatively larger in small pictures, to be readable."""
    return 5.5 + 0.04 * size


def fit(figure: Figure, size: int) -> dict[str, complex]:
    """Return the points in pixels, y downwards, as large as fits with a margin for names."""
    corners = list(figure.points.values())
    for centre, rim in figure.circles:
        radius = abs(figure.points[rim] - figure.points[centre])
        corners += [figure.points[centre] + sign * radius * (1 + 1j) for sign in (1, -1)]
    across, down = np.real(corners), np.imag(corners)
    middle = complex(across.min() + across.max(), down.min() + down.max()) / 2
    room = size - 3.0 * letter_height(size)
    scale = room / max(np.ptp(across), np.ptp(down))
    centre = size / 2 * (1 + 1j)
    return {n: centre + scale * (z - middle).conjugate() for n, z in figure.points.items()}


def _arc(name: str, at: dict[str, complex], letter: float) -> tuple[float, float, float]:
    """Return an angle's mark: (start in degrees clockwise from the right, sweep, pixel radius)."""
    rays = [at[name[i]] - at[name[1]] for i in (0, 2)]
    sweep = math.degrees(cmath.phase(rays[1] / rays[0]))
    start = math.degrees(cmath.phase(rays[0 if sweep > 0 else 1]))
    return start, abs(sweep), min(1.0 * letter, 0.4 * min(map(abs, rays)))


@functools.lru_cache
def _font(letter: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=letter)


def _half(text: str, letter: float) -> complex:
    """Return half of a text's width and height, in pixels."""
    left, top, right, bottom = _font(letter).getbbox(text)
    return complex(right - left, bottom - top) / 2


def _colour(text: str) -> tuple[int, int, int]:
    if text.isupper():
        return INK
    return UNKNOWN if text.startswith("x") else GIVEN


def _line(pen, path: list[complex], colour, width: float):
    """Draw a line with round joints and ends."""
    pen.line([_xy(z) for z in path], fill=colour, width=round(width))
    for z in path:
        pen.ellipse(_box(z, width / 2 - 0.5), fill=colour)


def ray(degrees: float) -> complex:
    """Return the point one unit from 0, `degrees` anticlockwise from the right."""
    return cmath.rect(1, math.radians(degrees))


def triangle(A: str, B: str, C: str, a: float, b: float) -> Figure:
    """Return the triangle with angle a at A = 0 and angle b at B = 1."""
    reach = math.sin(math.radians(b)) / math.sin(math.radians(a + b))
    return Figure({A: 0, B: 1, C: reach * ray(a)}, (A + B + C,))


def right_triangle(A: str, B: str, C: str, a: float, b: float) -> Figure:
    """Return the triangle with CA = a, CB = b and a right angle at C."""
    return Figure({A: a, B: 1j * b, C: 0}, (A + B + C,), right=(A + C + B,))


def _box(centre: complex, radius: float) -> list[float]:
    away = radius * (1 + 1j)
    return [*_xy(centre - away), *_xy(centre + away)]


def _xy(z: complex) -> tuple[float, float]:
    return z.real, z.imag


def _unit(z: complex) -> complex:
    return z / abs(z)


def _mix(colour, ground, share: float) -> tuple[int, ...]:
    return tuple(round(share * c + (1 - share) * g) for c, g in zip(colour, ground))
