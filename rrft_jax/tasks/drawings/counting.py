"""Drawn counting: "Remove all red things. Add 2 small cubes. How many things are left?"

A scene is 3 to 8 shaded solids, each somewhere in its own cell of a 4 x 4 grid, on a ground that is
lit warm from the left and cool from the right. Questions are of one to three steps: an optional
removal, an optional addition, and a count, as in CLEVR-Math (https://arxiv.org/abs/2208.05358).
The chain of thought goes through the objects in reading order, with their cells (columns a to d,
rows 1 to 4). For each object it names the attributes that were asked for, up to the first that
differs, and it numbers the objects that count:

    Remove all large cubes. Add 2 small spheres. How many things are left?
    a1 large cube no, c2 small=1, d2 large sphere=2. Add 2: 2+2=4.

The shifted split has other shapes, other colours and more objects, like Super-CLEVR compared with
CLEVR. Everything is a pure function of (split, seed, index), at any picture size.
"""

import dataclasses

import numpy as np
from PIL import Image

from rrft_jax.tasks.drawings.sprites import sprite
from rrft_jax.tasks.example import Example

NAME = "visual_counting"
GRID = 4
SIZES = {"small": 0.56, "large": 0.86}  # share of a cell


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The things that a split draws; `objects` are the smallest and largest number of objects."""

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    objects: tuple[int, int]


IN_DOMAIN = Vocabulary(
    shapes=("cube", "sphere", "cylinder"),
    colours=("red", "blue", "green", "yellow", "purple", "gray"),
    objects=(3, 8),
)
SHIFTED = Vocabulary(
    shapes=("cone", "ring", "star"),
    colours=("orange", "cyan", "pink", "brown"),
    objects=(7, 10),
)
EVERYTHING = Vocabulary(  # the base checkpoint has seen pictures of all these
    shapes=IN_DOMAIN.shapes + SHIFTED.shapes,
    colours=IN_DOMAIN.colours + SHIFTED.colours,
    objects=(1, 10),
)
SPLITS = {"train": (0, IN_DOMAIN), "id": (1, IN_DOMAIN), "ood": (2, SHIFTED)}


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object, or a description of objects where an attribute may be None (any)."""

    size: str | None
    colour: str | None
    shape: str | None

    def __str__(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape or "thing") if word)

    @property
    def plural(self) -> str:
        return f"{self}s"

    def compare(self, thing: "Thing") -> tuple[list[str], bool]:
        """Return the words of `thing` up to the first that differs, and whether none does."""
        words = []
        for asked, word in zip(dataclasses.astuple(self), dataclasses.astuple(thing)):
            if asked is not None:
                words.append(word)
                if word != asked:
                    return words, False
        return words, True

    def covers(self, thing: "Thing") -> bool:
        """Return whether this description fits the object."""
        return self.compare(thing)[1]


def sample(split: str, seed: int, index: int, image_size: int) -> Example:
    """Return the sample at `index` of a split ("train", "id", "ood")."""
    stream, vocabulary = SPLITS[split]
    rng = np.random.default_rng([seed, stream, index])
    scene = draw_scene(rng, vocabulary, image_size)
    problem, cot, answer = _question(rng, scene, vocabulary)
    return Example(
        id=f"counting-{split}-{seed}-{index}",
        images=(scene.image,),
        problem=problem,
        answer=answer,
        cot=cot,
        task=NAME,
    )


@dataclasses.dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]  # in reading order: rows from the top, each from the left
    cells: tuple[str, ...]  # the cells of the things: "a1", "b1", ...
    image: Image.Image

    @property
    def placed(self) -> list[tuple[str, Thing]]:
        return list(zip(self.cells, self.things))


def draw_scene(rng: np.random.Generator, vocabulary: Vocabulary, image_size: int) -> Scene:
    """Draw a random scene, `image_size` pixels wide and high."""
    count = rng.integers(vocabulary.objects[0], vocabulary.objects[1] + 1)
    cells = np.sort(rng.choice(GRID * GRID, count, replace=False))
    image = _floor(image_size, brightness=rng.uniform(0.9, 1.1))
    things = []
    for cell in cells:
        thing = random_thing(rng, vocabulary)
        side = image_size / GRID
        pixels = round(side * SIZES[thing.size])
        slack = max(side - pixels, 0) / 2
        corner = np.array([cell % GRID, cell // GRID]) * side + slack
        corner = (corner + rng.uniform(-0.5, 0.5, 2) * slack).round().astype(int)
        solid = sprite(thing.shape, thing.colour, pixels)
        image.paste(solid, tuple(corner.tolist()), solid)
        things.append(thing)
    return Scene(tuple(things), tuple(map(cell_name, cells)), image)


def cell_name(cell: int) -> str:
    return f"{'abcd'[cell % GRID]}{cell // GRID + 1}"


def random_thing(rng: np.random.Generator, vocabulary: Vocabulary) -> Thing:
    pick = [tuple(SIZES), vocabulary.colours, vocabulary.shapes]
    return Thing(*(choices[rng.integers(len(choices))] for choices in pick))


def description(
    rng: np.random.Generator, things: tuple[Thing, ...], vocabulary: Vocabulary
) -> Thing:
    """Return a description by one or two attributes, which mostly fits something in the scene."""
    if rng.random() < 0.85:
        model = things[rng.integers(len(things))]
    else:
        model = random_thing(rng, vocabulary)
    keep = _KEEP[rng.choice(len(_KEEP), p=_KEEP_SHARES)]
    return Thing(*(v if k else None for v, k in zip((model.size, model.colour, model.shape), keep)))


_KEEP = ((0, 1, 0), (0, 0, 1), (1, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0))  # size, colour, shape
_KEEP_SHARES = (0.26, 0.26, 0.12, 0.16, 0.10, 0.10)
ANYTHING = Thing(None, None, None)


def _question(rng, scene: Scene, vocabulary: Vocabulary) -> tuple[str, str, str]:
    """Return (problem, chain of thought, answer) about a scene."""
    removes, adds = rng.random(2) < (0.6, 0.5)
    described = description(rng, scene.things, vocabulary)
    counted = ANYTHING if removes else described
    more = int(rng.integers(1, 5)) if adds else 0
    sentences = []
    if removes:
        sentences.append(f"Remove all {described.plural}.")
    if adds:
        new = random_thing(rng, vocabulary) if removes else counted
        sentences.append(f"Add {more} {new.plural if more > 1 else new}.")
    sentences.append(f"How many {counted.plural} are {'left' if removes else 'there'}?")

    steps, kept = number(scene, described, removes)
    cot = f"{steps}."
    if adds:
        cot += f" Add {more}: {kept}+{more}={kept + more}."
    return " ".join(sentences), cot, str(kept + more)


def number(scene: Scene, described: Thing, removes: bool) -> tuple[str, int]:
    """Number the objects that count: if `removes`, those that don't fit, else those that fit.

    Returns:
      ("a1 red=1, c2 blue no, ...", number of objects that count).
    """
    count, steps = 0, []
    for cell, thing in scene.placed:
        words, fits = described.compare(thing)
        counts = fits != removes
        count += counts
        steps.append(f"{cell} {' '.join(words)}" + (f"={count}" if counts else " no"))
    return ", ".join(steps), count


def _floor(size: int, brightness: float) -> Image.Image:
    """Draw the ground: lighter towards the viewer, lit warm from the left, cool from the right."""
    ramp = np.linspace(-1, 1, size)
    depth, across = 98 + 30 * ramp[:, None, None], ramp[None, :, None]
    pixels = (depth - across * np.array([24, 0, -24])) * brightness
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
