"""Drawn geometry: "As shown in the figure, AB is a diameter of circle O. What is the value of x?"

A figure is drawn true to scale and turned at random. The given values are written in it, so that a
model must read the picture. Half of the questions have four options and a letter as the answer. The
others have a number as the answer. The chain of thought reads the figure, names the theorem, and
computes:

    angle BAC = 35, angle ABC = 60. The angles of a triangle add up to 180, so
    x = 180 - 35 - 60 = 145 - 60 = 85. (A) 95 no, (B) 85.

In domain are triangles, circles, parallels and rectangles, with questions in the style of GeoMath.
The shifted split has other figures (quadrilaterals, polygons, tangents, similar triangles) and is
as terse as Geometry3K ("Find x."). Everything is a pure function of (split, seed, index), at any
picture size.
"""

import dataclasses
import functools
import math

import numpy as np

from rrft_jax.tasks.drawings.arithmetic import worked
from rrft_jax.tasks.drawings.figures import TINTS, Figure, draw, ray, right_triangle, triangle
from rrft_jax.tasks.example import Drawing, Example

NAME = "structure_perception"
OPTIONS = "ABCD"
_NAMES = ("ABCDEFGH", "DEFGHJKL", "JKLMNPQR", "PQRSTUVW")  # O is always a circle's centre
_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (20, 21, 29))


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """A figure, a question about it, and the one line that answers it."""

    figure: Figure
    given: str  # facts that the figure cannot show: "AB is a diameter of circle O"
    asked: str  # "ABC" (an angle), "AB" (a length) or "the area of triangle ABC"
    because: str  # the theorem
    working: str  # "180 - 50 - 60": equals the value
    value: float
    traps: tuple[float, ...]  # the results of usual mistakes


@dataclasses.dataclass(frozen=True)
class Question:
    """A sample without its pixels."""

    kind: str
    puzzle: Puzzle
    problem: str
    cot: str
    answer: str


def sample(split: str, seed: int, index: int, image_size: int) -> Example:
    """Return the sample at `index` of a split ("train", "id", "ood")."""
    posed = question(split, seed, index)
    return Example(
        id=f"structure-{split}-{seed}-{index}",
        images=(
            Drawing((image_size,) * 2, functools.partial(draw, posed.puzzle.figure, image_size)),
        ),
        problem=posed.problem,
        answer=posed.answer,
        cot=posed.cot,
        task=NAME,
    )


def question(split: str, seed: int, index: int) -> Question:
    """Return the question at `index` of a split."""
    stream, kinds, ask = SPLITS[split]
    return pose(np.random.default_rng([seed, stream, index]), kinds, ask, simple=True)


def pose(rng: np.random.Generator, kinds, ask, simple: bool = False) -> Question:
    """Return a question of one of these kinds: by name or as x, with four options or without.

    `simple` asks for numbers that are easy to compute with.
    """
    kind = _pick(rng, kinds)
    puzzle = kind(rng, *_pick(rng, _NAMES))
    while simple and not _simple(puzzle):
        puzzle = kind(rng, *_pick(rng, _NAMES))
    figure, goal = puzzle.figure, _speak(puzzle.asked)
    read = ", ".join(f"{_speak(name)} = {text}" for name, text in figure.marks.items())
    if len(puzzle.asked) <= 3 and rng.random() < 0.5:
        figure, goal = figure.marked({puzzle.asked: "x"}), "x"

    problem, answer = ask(rng, puzzle.given, goal), f"{puzzle.value:g}"
    cot = f"{puzzle.because}, so {goal} = {' = '.join([*worked(puzzle.working), answer])}."
    cot = f"{read}. {cot}" if read else cot
    if rng.random() < 0.5:
        options, answer = _options(rng, puzzle)
        listed = " ".join(f"({letter}) {value}" for letter, value in zip(OPTIONS, options))
        problem = f"{problem} Choices: {listed}"
        tried, _, _ = listed.partition(f" ({chr(ord(answer) + 1)})")
        cot = f"{cot} {tried.replace(' (', ' no, (')}."

    turn = 90 * rng.integers(4) + rng.normal(0, 12)  # degrees: about upright, as in a book
    figure = figure.turned(turn, mirrored=rng.random() < 0.5)
    figure = dataclasses.replace(figure, tint=int(rng.integers(len(TINTS))))
    return Question(kind.__name__, dataclasses.replace(puzzle, figure=figure), problem, cot, answer)


def _simple(puzzle: Puzzle) -> bool:
    """Return whether angles are multiples of five degrees, and lengths at most 15."""
    values = [(name, float(text)) for name, text in puzzle.figure.marks.items()]
    return all(
        value % 5 == 0 if len(name) == 3 else len(name) > 3 or value <= 15
        for name, value in [*values, (puzzle.asked, puzzle.value)]
    )


def _speak(name: str) -> str:
    return f"angle {name}" if len(name) == 3 else name


def _options(rng, puzzle: Puzzle) -> tuple[list[str], str]:
    """Return four values and the letter of the right one.

    One or two values are traps. The others are near the right one.
    """
    right = puzzle.value
    step = 5 if len(puzzle.asked) == 3 else max(1, right // 8)
    near = rng.permutation(right + step * np.array([-3, -2, -1, 1, 2, 3]))
    fair = [trap for trap in puzzle.traps if trap > 0 and 10 * trap % 1 == 0]
    traps = rng.permutation(fair)[: rng.integers(1, 3)]
    wrong = dict.fromkeys(f"{v:g}" for v in (*traps, *near) if v > 0 and v != right)
    options, place = rng.permutation(list(wrong)[:3]).tolist(), int(rng.integers(4))
    return options[:place] + [f"{right:g}"] + options[place:], OPTIONS[place]


def _ask_at_length(rng, given: str, goal: str) -> str:
    opening = _pick(rng, ("As shown in the figure", "In the figure"))
    asks = "What is the value of x?" if goal == "x" else f"How long is {goal}?"
    if len(goal) > 2:
        asks = f"{'How many degrees' if goal.startswith('angle') else 'What'} is {goal}?"
    return f"{opening}, {given}. {asks}"


def _ask_tersely(rng, given: str, goal: str) -> str:
    goal = f"the measure of {goal}" if goal.startswith("angle") else goal
    terse = (f"Find {goal} if {given}.", f"If {given}, find {goal}.")
    return _pick(rng, terse) if given else f"Find {goal}."


# The figures in domain.


def third_angle(rng, A, B, C, *_) -> Puzzle:
    a, b = _two_angles(rng)
    figure, given = triangle(A, B, C, a, b), f"{A}{B}{C} is a triangle"
    because, working = "The angles of a triangle add up to 180", f"180 - {a} - {b}"
    figure, traps = figure.marked({B + A + C: a, A + B + C: b}), (a + b, 180 - a, 180 - b, a, b)
    return Puzzle(figure, given, A + C + B, because, working, 180 - a - b, traps)


def isosceles(rng, A, B, C, *_) -> Puzzle:
    apex = int(rng.integers(30, 111))
    base = (180 - apex) / 2
    figure = dataclasses.replace(triangle(A, B, C, base, base), equal=(A + C, B + C))
    given, because = f"{A}{B}{C} is a triangle with {A}{C} = {B}{C}", "The base angles are equal"
    if rng.random() < 0.5:
        figure, traps = figure.marked({A + C + B: apex}), (180 - apex, apex, 90 - base)
        return Puzzle(figure, given, B + A + C, because, f"(180 - {apex}) / 2", base, traps)
    figure, traps = figure.marked({B + A + C: base}), (180 - base, base, 2 * base)
    return Puzzle(figure, given, A + C + B, because, f"180 - 2 * {base:g}", apex, traps)


def pythagoras(rng, A, B, C, *_) -> Puzzle:
    a, b, c = _triple(rng)
    figure, given = right_triangle(A, B, C, a, b), f"angle {A}{C}{B} is a right angle"
    because = "The squares of the legs add up to that of the hypotenuse"
    return _right(rng, figure, given, because, {A + C: a, B + C: b, A + B: c})


def right_triangle_area(rng, A, B, C, *_) -> Puzzle:
    a, b = _two_sides(rng)
    figure = right_triangle(A, B, C, a, b).marked({A + C: a, B + C: b})
    given, asked = f"angle {A}{C}{B} is a right angle", f"the area of triangle {A}{B}{C}"
    because, traps = "The area is half of the product of the legs", (a * b, a + b, 2 * (a + b))
    return Puzzle(figure, given, asked, because, f"{a} * {b} / 2", a * b / 2, traps)


def inscribed_angle(rng, A, B, C, *_) -> Puzzle:
    v = int(rng.integers(35, 76))
    top = 180 + 0.7 * v * rng.uniform(-1, 1)  # keeps the centre inside the triangle
    points = {"O": 0, A: ray(v), B: ray(-v), C: ray(top)}
    figure = Figure(points, lines=("O" + A, "O" + B, A + C, B + C), circles=("O" + A,))
    given = f"{A}, {B} and {C} are points on circle O"
    because = "A central angle is twice the inscribed angle"
    inscribed, central = A + C + B, A + "O" + B
    if rng.random() < 0.5:
        figure, traps = figure.marked({central: 2 * v}), (2 * v, 180 - v, abs(90 - v))
        return Puzzle(figure, given, inscribed, because, f"{2 * v} / 2", v, traps)
    figure, traps = figure.marked({inscribed: v}), (v, 180 - v, 180 - 2 * v)
    return Puzzle(figure, given, central, because, f"2 * {v}", 2 * v, traps)


def radius(rng, A, B, C, *_) -> Puzzle:
    d = int(rng.integers(5, 61))
    r = d / 2
    points = {"O": 0, A: -r, B: r, C: r * ray(rng.uniform(50, 130))}
    figure = Figure(points, lines=(A + B, "O" + C), circles=("O" + A,))
    given, because = f"{A}{B} is a diameter of circle O", "A diameter is twice the radius"
    if rng.random() < 0.5:
        figure, traps = figure.marked({A + B: d}), (d, 2 * d, d / 4)
        return Puzzle(figure, given, "O" + C, because, f"{d} / 2", r, traps)
    figure, traps = figure.marked({"O" + C: r}), (r, 3 * r, 4 * r)
    return Puzzle(figure, given, A + B, because, f"2 * {r:g}", d, traps)


def semicircle(rng, A, B, C, *_) -> Puzzle:
    a = int(rng.integers(25, 66))
    figure = Figure({"O": 0, A: -1, B: 1, C: ray(2 * a)}, (A + B + C,), circles=("O" + A,))
    given, because = f"{A}{B} is a diameter of circle O", "The angle in a semicircle is right"
    figure, traps = figure.marked({B + A + C: a}), (180 - a, 2 * a, a, 180 - 2 * a)
    return Puzzle(figure, given, A + B + C, because, f"90 - {a}", 90 - a, traps)


def parallels(rng, A, B, C, D, E, F, G, *_) -> Puzzle:
    t = _slant(rng)
    cross = ray(t) / math.sin(math.radians(t))  # from F on CD to E on AB
    middle, reach = cross.real / 2, 1.1 + abs(cross.real) / 2
    points = {A: middle - reach + 1j, B: middle + reach + 1j, C: middle - reach, D: middle + reach}
    points |= {E: cross, F: 0, G: 1.6 * cross, "g": -0.5 * cross}
    right, given = E + F + D, f"{A}{B} is parallel to {C}{D}"
    figure = Figure(points, lines=(A + B, C + D, G + "g"), parallel=(A + B, C + D))
    relation = _pick(rng, ("Corresponding", "Alternate", "Co-interior"))
    other = {"Corresponding": G + E + B, "Alternate": A + E + F, "Co-interior": B + E + F}[relation]
    shown, asked = rng.permutation([right, other]).tolist()
    because, working, mark, value = f"{relation} angles are equal", f"angle {shown}", t, t
    if relation == "Co-interior":
        mark = t if shown == right else 180 - t
        because, working, value = f"{relation} angles add up to 180", f"180 - {mark}", 180 - mark
    figure, traps = figure.marked({shown: mark}), (180 - value, abs(90 - value), abs(180 - 2 * t))
    return Puzzle(figure, given, asked, because, working, value, traps)


def rectangle(rng, A, B, C, D, *_) -> Puzzle:
    a, b = _two_sides(rng)
    points, name = {A: 0, B: a, C: a + 1j * b, D: 1j * b}, A + B + C + D
    figure = Figure(points, (name,), right=(A + B + C,)).marked({A + B: a, B + C: b})
    given, area, around = f"{name} is a rectangle", a * b, 2 * (a + b)
    if rng.random() < 0.5:
        asked, because = f"the area of rectangle {name}", "The area is length times width"
        return Puzzle(figure, given, asked, because, f"{a} * {b}", area, (around, a + b, area / 2))
    asked, because = f"the perimeter of rectangle {name}", "Opposite sides are equal"
    traps = (area, a + b, 2 * a + b, a + 2 * b)
    return Puzzle(figure, given, asked, because, f"2 * ({a} + {b})", around, traps)


# The figures of the shifted split.


def parallelogram(rng, A, B, C, D, *_) -> Puzzle:
    angle, (a, b), name = _slant(rng), _two_sides(rng), A + B + C + D
    figure = Figure({A: 0, B: a, C: a + b * ray(angle), D: b * ray(angle)}, (name,))
    given, about = f"{name} is a parallelogram", rng.integers(3)
    if about == 0:
        figure, traps = figure.marked({A + B: a, B + C: b}), (a + b, a * b, 2 * a + b)
        asked, because = f"the perimeter of parallelogram {name}", "Opposite sides are equal"
        return Puzzle(figure, given, asked, because, f"2 * ({a} + {b})", 2 * (a + b), traps)
    figure, traps = figure.marked({D + A + B: angle}), (180 - angle, angle, angle / 2, 90)
    if about == 1:
        because, working = "Opposite angles are equal", f"angle {D}{A}{B}"
        return Puzzle(figure, given, B + C + D, because, working, angle, traps)
    because, working = "Neighbouring angles add up to 180", f"180 - {angle}"
    return Puzzle(figure, given, A + B + C, because, working, 180 - angle, traps)


def trapezoid(rng, A, B, C, D, E, F, *_) -> Puzzle:
    low = int(rng.integers(10, 31))
    top = int(rng.integers(math.ceil(0.4 * low), math.ceil(0.8 * low)))
    d = (low - top) * rng.uniform(0.2, 0.8) + 0.6j * low
    points = {A: 0, B: low, C: d + top, D: d, E: d / 2, F: (low + d + top) / 2}
    figure = Figure(points, (A + B + C + D,), (E + F,), parallel=(A + B, D + C))
    given = f"{E}{F} is the midsegment of trapezoid {A}{B}{C}{D}"
    because, half = "The midsegment is half of the sum of the bases", (low + top) / 2
    if rng.random() < 0.5:
        working, traps = f"({low} + {top}) / 2", (low + top, low - top, (low - top) / 2)
        figure = figure.marked({A + B: low, C + D: top})
        return Puzzle(figure, given, E + F, because, working, half, traps)
    working, traps = f"2 * {half:g} - {top}", (half + top, 2 * half, half)
    figure = figure.marked({E + F: half, C + D: top})
    return Puzzle(figure, given, A + B, because, working, low, traps)


def rhombus(rng, A, B, C, D, E, *_) -> Puzzle:
    p, q, side = _triple(rng)
    a = int(rng.integers(30, 61))
    by_angle = rng.random() < 0.4 or max(p, q) > 2 * min(p, q)  # too flat to write in
    half = ray(a) if by_angle else complex(p, q)  # half of the diagonals, across and up
    points = {A: -half.real, B: -1j * half.imag, C: half.real, D: 1j * half.imag, E: 0}
    figure = Figure(points, (A + B + C + D,), (A + C, B + D))
    given = f"the diagonals of rhombus {A}{B}{C}{D} meet at {E}"
    because = "The diagonals of a rhombus are perpendicular"
    if not by_angle:
        return _right(rng, figure, given, because, {A + E: p, B + E: q, A + B: side})
    figure, traps = figure.marked({B + A + E: a}), (180 - a, 2 * a, a, 180 - 2 * a)
    return Puzzle(figure, given, A + B + E, because, f"90 - {a}", 90 - a, traps)


def regular_polygon(rng, A, B, C, D, *_) -> Puzzle:
    kinds = {5: "pentagon", 6: "hexagon", 8: "octagon", 9: "nonagon", 10: "decagon"}
    n, s = int(_pick(rng, list(kinds))), int(rng.integers(4, 41)) / 2
    turn, names = 360 // n, A + B + C + "abcdefg"[: n - 3]
    points = {name: ray(turn * i) * s / abs(ray(turn) - 1) for i, name in enumerate(names)}
    given, about = f"{A}{B} and {B}{C} are sides of a regular {kinds[n]}", rng.integers(3)
    if about == 0:
        figure, asked = Figure(points, (names,)).marked({A + B: s}), f"the {kinds[n]}'s perimeter"
        because, traps = f"It has {n} equal sides", ((n - 1) * s, (n + 1) * s, n + s)
        return Puzzle(figure, given, asked, because, f"{n} * {s:g}", n * s, traps)
    if about == 1:
        points[D] = points[B] + 0.8 * (points[B] - points[A])
        figure, given = Figure(points, (names,), (B + D,)), f"{given} and {A}{B} leads on to {D}"
        because, traps = f"The {n} exterior angles add up to 360", (180 - turn, 180 / n, 2 * turn)
        return Puzzle(figure, given, C + B + D, because, f"360 / {n}", turn, traps)
    because, traps = f"The {n} angles add up to {n - 2} * 180", (turn, 180 - turn / 2, 90)
    figure, working = Figure(points, (names,)), f"{n - 2} * 180 / {n}"
    return Puzzle(figure, given, A + B + C, because, working, 180 - turn, traps)


def exterior_angle(rng, A, B, C, D, *_) -> Puzzle:
    a, b = _two_angles(rng)
    figure = triangle(B, C, A, b, 180 - a - b).marked({B + A + C: a})
    figure = dataclasses.replace(figure, points={**figure.points, D: 1.4}, lines=(C + D,))
    both, because = a + b, "An exterior angle is the sum of the two remote ones"
    traps = (180 - both, 180 - a, a)
    if rng.random() < 0.5:
        figure = figure.marked({A + B + C: b})
        return Puzzle(figure, "", A + C + D, because, f"{a} + {b}", both, traps)
    figure = figure.marked({A + C + D: both})
    return Puzzle(figure, "", A + B + C, because, f"{both} - {a}", b, traps)


def tangent(rng, A, B, *_) -> Puzzle:
    r, t, far = _triple(rng)
    a = int(rng.integers(35, 66))
    by_angle = rng.random() < 0.5
    leg = complex(math.tan(math.radians(a)), 1) if by_angle else complex(t, r)
    figure = Figure({"O": 0, A: 1j * leg.imag, B: leg}, ("O" + A + B,), circles=("O" + A,))
    given = f"{A}{B} is tangent to circle O at {A}"
    because = "A tangent is perpendicular to the radius"
    if not by_angle:
        return _right(rng, figure, given, because, {"O" + A: r, A + B: t, "O" + B: far})
    figure, traps = figure.marked({A + "O" + B: a}), (180 - a, a, 2 * a, 180 - 2 * a)
    return Puzzle(figure, given, A + B + "O", because, f"90 - {a}", 90 - a, traps)


def similar_triangles(rng, A, B, C, D, E, *_) -> Puzzle:
    near, far = _pick(rng, ((1, 1), (1, 2), (2, 1), (2, 3), (3, 2), (3, 4), (4, 3)))
    one, two = rng.choice([(4, 4), (5, 6), (6, 5), (7, 8), (8, 7), (9, 12), (12, 10)]) / 2
    ad, db, ae, ec = near * one, far * one, near * two, far * two
    side = ray(rng.uniform(45, 80))
    points = {A: 0, D: ad, B: ad + db, E: ae * side, C: (ae + ec) * side}
    figure = Figure(points, (A + B + C,), (D + E,), parallel=(D + E, B + C))
    figure = figure.marked({A + D: ad, D + B: db, A + E: ae})
    given, because = f"{D}{E} is parallel to {B}{C}", f"{A}{D} : {D}{B} = {A}{E} : {E}{C}"
    working, traps = f"{db:g} * {ae:g} / {ad:g}", (ae, db, ae + db - ad, ad)
    return Puzzle(figure, given, E + C, because, working, ec, traps)


def quadrilateral(rng, A, B, C, D, *_) -> Puzzle:
    a, b, c, d = 0, 0, 0, 360
    while not 70 <= d <= 110:
        a, b, c = (int(n) for n in rng.integers(70, 111, 3))
        d = 360 - a - b - c
    corner, along, up = 0.85 * ray(a), ray(a + d - 180), ray(180 - b)  # C: where two rays meet
    reach = ((1 - corner) * up.conjugate()).imag / (along * up.conjugate()).imag
    figure = Figure({A: 0, B: 1, C: corner + reach * along, D: corner}, (A + B + C + D,))
    figure = figure.marked({D + A + B: a, A + B + C: b, B + C + D: c})
    because, traps = "The four angles add up to 360", (180 - d, 180 - a, 180 - b, 180 - c)
    return Puzzle(figure, "", C + D + A, because, f"360 - {a} - {b} - {c}", d, traps)


IN_DOMAIN = (third_angle, isosceles, pythagoras, right_triangle_area, inscribed_angle, radius)
IN_DOMAIN += (semicircle, parallels, rectangle)
SHIFTED = (parallelogram, trapezoid, rhombus, regular_polygon, exterior_angle, tangent)
SHIFTED += (similar_triangles, quadrilateral)
SPLITS = {
    "train": (0, IN_DOMAIN, _ask_at_length),
    "id": (1, IN_DOMAIN, _ask_at_length),
    "ood": (2, SHIFTED, _ask_tersely),
}


def _right(rng, figure: Figure, given: str, because: str, sides: dict[str, float]) -> Puzzle:
    """Ask for one of a right triangle's sides; the last of `sides` is the hypotenuse."""
    asked = _pick(rng, list(sides))
    value = sides[asked]
    known = {name: side for name, side in sides.items() if name != asked}
    low, high = sorted(known.values())
    if value > high:
        sign, wrong = "+", low + high
    else:
        low, high, sign, wrong = high, low, "-", high - low
    working = f"sqrt({low:g}^2 {sign} {high:g}^2)"
    traps = (wrong, (low + high) / 2, low)
    return Puzzle(figure.marked(known), given, asked, because, working, value, traps)


def _pick(rng, choices):
    return choices[rng.integers(len(choices))]


def _two_angles(rng) -> tuple[int, int]:
    """Return two angles of a triangle in which no angle is too sharp to write in."""
    a = int(rng.integers(30, 91))
    return a, int(rng.integers(30, min(91, 151 - a)))


def _two_sides(rng) -> tuple[int, int]:
    """Return two sides, neither more than twice the other."""
    a = int(rng.integers(4, 26))
    return a, int(rng.integers(math.ceil(a / 2), 2 * a + 1))


def _slant(rng) -> int:
    """Return an angle that does not look like a right angle."""
    return int(_pick(rng, (rng.integers(45, 81), rng.integers(100, 136))))


def _triple(rng) -> tuple[float, float, float]:
    """Return a right triangle's legs, in any order, and its hypotenuse, up to about 60."""
    *legs, longest = np.array(_pick(rng, _TRIPLES)) / 2
    times = int(rng.integers(1, max(2, 60 // longest) + 1))
    a, b = rng.permutation(legs).tolist()
    return a * times, b * times, float(longest) * times
