"""Drawn spatial transformation: two pictures, and the calls that turn the first into the second.

A scene is 3 to 5 solids in the cells of a 4 x 4 square on the ground: columns a to d from the left,
rows 1 to 4 from the far side, as the central camera sees them. One to four calls change it, as in
TRANCE (https://arxiv.org/abs/2011.13160), whose list of objects, calls and values these are:

    [('0', 'sphere', 'large', 'red', 'metal'), ('1', 'cube', 'small', 'yellow', 'glass')]
    change_color(1, 'cyan'), change_position(1, 'behind')

A position changes by one cell. As in TRANCE, directions are seen from the central camera: 'front'
is away from the camera, and 'behind' is back towards it. The chain of thought finds every object of
the list in both pictures. It writes down the call of each attribute that has changed, in the
answer's order:

    0: b2 large red metal sphere -> b2 large red metal sphere: same same same same same.
    1: c3 small yellow glass cube -> c4 small cyan glass cube: same change_color(1, 'cyan') same
       same change_position(1, 'behind').

The shifted splits show the second picture from the left or from the right. Cells and directions
stay as seen from the centre. Pictures are square, like all drawn pictures: from this height the
ground fills a square, so that every patch of a small picture shows something. Everything is a pure
function of (split, seed, index), at any picture size.
"""

import dataclasses
import functools
import itertools

import numpy as np
from PIL import Image

from rrft_jax.tasks.drawings.render import Camera, Solid, render
from rrft_jax.tasks.drawings.sprites import COLOURS
from rrft_jax.tasks.example import Drawing, Example

NAME = "spatial_transformation"
GRID = 4
OBJECTS = (3, 5)  # the smallest and the largest number of objects
STEPS = (1, 4)
VALUES = {
    "size": ("small", "medium", "large"),
    "color": ("yellow", "gray", "cyan", "blue", "brown", "green", "red", "purple"),
    "material": ("glass", "metal", "rubber"),
    "shape": ("cube", "sphere", "cylinder"),
}
ATTRIBUTES = (*VALUES, "position")  # in the order of an object's calls
DIRECTIONS = {  # columns to the right, rows to the near side
    "front": (0, -1),
    "behind": (0, 1),
    "left": (-1, 0),
    "right": (1, 0),
    "front_left": (-1, -1),
    "front_right": (1, -1),
    "behind_left": (-1, 1),
    "behind_right": (1, 1),
}
RADII = {"small": 0.24, "medium": 0.33, "large": 0.44}  # cells; neighbours never touch
CAMERAS = {"center": 0, "left": -35, "right": 35}  # degrees around the ground
SPLITS = {  # split -> its stream of random numbers, and the camera of the second picture
    "train": (0, "center"),
    "id": (1, "center"),
    "ood-left": (2, "left"),
    "ood-right": (3, "right"),
}


@dataclasses.dataclass(frozen=True)
class Thing:
    size: str
    color: str
    material: str
    shape: str
    cell: tuple[int, int]  # (column, row)

    def __str__(self) -> str:
        column, row = self.cell
        return f"{'abcd'[column]}{row + 1} {self.size} {self.color} {self.material} {self.shape}"


Scene = tuple[Thing, ...]  # an object's id is its index


@dataclasses.dataclass(frozen=True)
class Step:
    object: int
    attribute: str  # a key of VALUES, or "position"
    value: str

    def __str__(self) -> str:
        return f"change_{self.attribute}({self.object}, '{self.value}')"


def sample(split: str, seed: int, index: int, image_size: int) -> Example:
    """Return the sample at `index` of a split ("train", "id", "ood-left", "ood-right")."""
    stream, camera = SPLITS[split]
    initial, steps, final = draw_story(np.random.default_rng([seed, stream, index]))
    return Example(
        id=f"transformation-{split}-{seed}-{index}",
        images=tuple(
            Drawing((image_size,) * 2, functools.partial(picture, scene, camera, image_size))
            for scene, camera in ((initial, "center"), (final, camera))
        ),
        problem=problem(initial),
        answer=", ".join(map(str, steps)),
        cot=_thought(initial, steps, final),
        task=NAME,
    )


def draw_story(rng: np.random.Generator) -> tuple[Scene, list[Step], Scene]:
    """Draw a random scene; return it, its steps in order of objects and attributes, and its result.

    An attribute of an object changes once at most, so no step undoes another. No other list of
    steps to the same result is as short, so the pictures determine the steps.
    """
    while True:
        initial = _draw_scene(rng)
        changes = list(itertools.product(range(len(initial)), ATTRIBUTES))
        number = rng.integers(STEPS[0], STEPS[1] + 1)
        chosen = np.sort(rng.choice(len(changes), number, replace=False))
        scene, steps = initial, []
        for thing, attribute in (changes[c] for c in chosen):
            values = _possible(scene, thing, attribute)
            if not values:
                break
            steps.append(Step(thing, attribute, values[rng.integers(len(values))]))
            scene = apply(scene, steps[-1])
        else:
            if _shortest(initial, scene, number):
                return initial, steps, scene


def apply(scene: Scene, step: Step) -> Scene:
    """Return the scene after a step."""
    thing = scene[step.object]
    if step.attribute == "position":
        thing = dataclasses.replace(thing, cell=_neighbour(thing.cell, step.value))
    else:
        thing = dataclasses.replace(thing, **{step.attribute: step.value})
    return (*scene[: step.object], thing, *scene[step.object + 1 :])


def picture(scene: Scene, camera: str, image_size: int) -> Image.Image:
    """Draw the scene as one of CAMERAS sees it, `image_size` pixels wide and high."""
    return render(tuple(map(solid, scene)), Camera(CAMERAS[camera], image_size))


def solid(thing: Thing) -> Solid:
    """Return the thing as a body in its place."""
    middle = (GRID - 1) / 2
    return Solid(
        shape=thing.shape,
        material=thing.material,
        color=COLOURS[thing.color],
        x=thing.cell[0] - middle,
        y=middle - thing.cell[1],
        radius=RADII[thing.size],
    )


def _draw_scene(rng: np.random.Generator) -> Scene:
    """Draw objects that all look different, so that attributes identify each in the picture.

    They are numbered in reading order, from the far left.
    """
    count = rng.integers(OBJECTS[0], OBJECTS[1] + 1)
    looks = list(itertools.product(*VALUES.values()))
    chosen = rng.choice(len(looks), count, replace=False)
    cells = np.sort(rng.choice(GRID * GRID, count, replace=False))
    return tuple(
        Thing(*looks[look], cell=(int(cell) % GRID, int(cell) // GRID))
        for look, cell in zip(chosen, cells)
    )


def _possible(scene: Scene, thing: int, attribute: str) -> list[str]:
    """Return the values that an object's attribute can change to; a position needs a free cell."""
    if attribute != "position":
        return [v for v in VALUES[attribute] if v != getattr(scene[thing], attribute)]
    taken = {other.cell for other in scene}
    cells = {name: _neighbour(scene[thing].cell, name) for name in DIRECTIONS}
    return [n for n, c in cells.items() if c not in taken and 0 <= min(c) and max(c) < GRID]


def _neighbour(cell: tuple[int, int], direction: str) -> tuple[int, int]:
    (column, row), (right, near) = cell, DIRECTIONS[direction]
    return column + right, row + near


def _shortest(initial: Scene, final: Scene, number: int) -> bool:
    """Return whether no other pairing of the first scene's objects with the second's is as short.

    Two objects that trade their colours could be two that trade their places, for instance.
    """
    costs = [[_changes(before, after) for after in final] for before in initial]
    order = range(len(initial))
    pairings = itertools.permutations(order)
    next(pairings)  # each object with itself
    return all(sum(costs[i][j] for i, j in zip(order, pairing)) > number for pairing in pairings)


def _changes(before: Thing, after: Thing) -> float:
    """Return the number of steps that turn one thing into the other."""
    across, down = (abs(a - b) for a, b in zip(before.cell, after.cell))
    if max(across, down) > 1:
        return np.inf  # a position changes once at most
    return (before.cell != after.cell) + sum(
        getattr(before, a) != getattr(after, a) for a in VALUES
    )


def problem(scene: Scene) -> str:
    return f"{attributes(scene)} Which calls lead to the final picture?"


def attributes(scene: Scene) -> str:
    """Write the list of objects as TRANCE does."""
    listed = [(str(i), t.shape, t.size, t.color, t.material) for i, t in enumerate(scene)]
    return f"Attributes of the initial objects: {listed}."


def _thought(initial: Scene, steps: list[Step], final: Scene) -> str:
    sentences = []
    for number, (before, after) in enumerate(zip(initial, final)):
        calls = {step.attribute: str(step) for step in steps if step.object == number}
        compared = [calls.get(name, "same") for name in ATTRIBUTES]
        sentences.append(f"{number}: {before} -> {after}: {' '.join(compared)}.")
    return " ".join(sentences)
