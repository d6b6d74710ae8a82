"""The lessons of the base: short conversations about each picture, and words for its parts.

The conversations are the group of completions of `score`, because they share their pictures.
Besides, each visual token must name the words of the thing that it shows, through the embedding of
the words. Without that, a model of this size takes thousands of steps to find that the picture
matters.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from PIL import Image

from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.tasks.drawings import arithmetic, counting, figures, structure, transformation
from rrft_jax.tasks.drawings.render import Camera

TOKENS = 4  # visual tokens on a side of a picture
STREAM = 7  # stream of random numbers; no split of a drawn task uses it

Conversation = list[tuple[str, str]]  # questions and answers


@dataclasses.dataclass(frozen=True)
class Lesson:
    """A picture lesson: its conversations, and the words of its visual tokens.

    `words[n]` are the words of visual token n, one for each of the task's SLOTS, or none. Each call
    of `ask` makes up one more short question. Conversations continue with these while there is
    room.
    """

    images: tuple[Image.Image, ...]
    texts: list[Conversation]
    words: list[tuple[str | None, ...]]
    ask: Callable[[], tuple[str, str]]


# A visual token names its words from rotated versions of itself, one version per slot. If the order
# of words matters, as in a number, each word has its own slot.
SLOTS = {
    counting.NAME: (0, 0, 0, 0),  # a cell, and size, colour and shape of the thing in it
    structure.NAME: (0, 1, 2, 3, 4),  # the name of a point, the signs of a number
    transformation.NAME: (0, 0, 0, 0, 0),
}


def counting_lesson(rng: np.random.Generator, phase: str, progress: float) -> Lesson:
    """Draw a scene of any shapes and colours: captions, numbering, counts, sums, single cells.

    Numbering of the objects that do *not* fit comes late. With both kinds from the start, neither
    is learnt, because a fitting object is then numbered as often as not.
    """
    scene = counting.draw_scene(rng, _counting_vocabulary(rng, phase), TINY_SIZE)
    placed = dict(scene.placed)
    caption = ("Describe the picture.", _listing([f"{c} {t}" for c, t in scene.placed]))

    def number(inverse: float = 0.0) -> tuple[str, str]:
        about = counting.description(rng, scene.things, counting.EVERYTHING)
        removes = rng.random() < inverse
        numbered, _ = counting.number(scene, about, removes)
        return f"Number {'everything but' if removes else 'all'} {about.plural}.", f"{numbered}."

    def count() -> tuple[str, str]:
        about = counting.description(rng, scene.things, counting.EVERYTHING)
        return f"How many {about.plural} are there?", str(sum(map(about.covers, scene.things)))

    def look() -> tuple[str, str]:
        """Ask about one cell, which is sometimes empty."""
        cell = counting.cell_name(rng.integers(counting.GRID**2))
        if rng.random() < 0.7:
            cell = pick(rng, scene.cells)
        return f"What is at {cell}?", f"{placed.get(cell, 'nothing')}."

    def add() -> tuple[str, str]:
        a, b = rng.integers(0, 12), rng.integers(0, 5)
        return f"What is {a}+{b}?", str(a + b)

    def ask() -> tuple[str, str]:
        return pick(rng, (count, add, add, look))()

    if phase in ("see", "perceive"):
        texts = [[caption], [number()] if rng.random() < 0.4 else [ask()]]
    else:  # several questions about one picture, so the answers depend on the question
        inverse = 0.5 if phase == "review" or progress > 0.4 else 0.0
        last = caption if rng.random() < 0.25 else ask()
        texts = [*([number(inverse)] for _ in range(3)), [last]]
    # An empty cell has only its own name.
    words = []
    for cell in map(counting.cell_name, range(counting.GRID**2)):
        shown = f"{cell} {placed[cell]}".split() if cell in placed else [cell] * 4
        words.append(tuple(f" {word}" for word in shown))
    return Lesson((scene.image,), texts, words, ask)


def _counting_vocabulary(rng: np.random.Generator, phase: str) -> counting.Vocabulary:
    """Return a vocabulary: all colours and shapes at first, then mostly three of each.

    With ten colours few objects have the colour of the question. A model then says "no" to all
    objects, and does so for a thousand steps.
    """
    if phase in ("see", "perceive") or rng.random() > 0.8:
        return counting.EVERYTHING
    some = {
        name: tuple(rng.choice(getattr(counting.EVERYTHING, name), 3, replace=False).tolist())
        for name in ("colours", "shapes")
    }
    return dataclasses.replace(counting.EVERYTHING, **some)


def structure_lesson(rng: np.random.Generator, phase: str, progress: float) -> Lesson:
    """Draw a figure of any kind: labels and their places, sums, options, sometimes the question.

    At first most lessons are cards, to learn to read.
    """
    if rng.random() < {"see": 0.9 - 0.4 * progress, "perceive": 0.3}.get(phase, 0):
        return _card(rng)
    asks = pick(rng, [ask for _, _, ask in structure.SPLITS.values()])
    posed = structure.pose(rng, structure.IN_DOMAIN + structure.SHIFTED, asks)
    figure = posed.puzzle.figure
    marks = [(_spoken(name), text) for name, text in figure.marks.items()]
    caption = ("Describe the picture.", _listing([f"{name} = {text}" for name, text in marks]))

    def read() -> tuple[str, str]:
        name, text = pick(rng, marks)
        return f"What is written at {name}?", f"{text}."

    def compute() -> tuple[str, str]:
        working, value = random_sum(rng)
        return f"What is {working}?", value

    def choose() -> tuple[str, str]:
        values = rng.choice(np.arange(2, 180) / pick(rng, (1, 1, 2)), 4, replace=False)
        options = " ".join(f"({o}) {v:g}" for o, v in zip(structure.OPTIONS, values))
        right = rng.integers(4)
        return f"Which is {values[right]:g}? Choices: {options}", f"({structure.OPTIONS[right]})."

    def ask() -> tuple[str, str]:
        kinds = (compute, choose, choose, read, read, read)
        return pick(rng, kinds if marks else kinds[:3])()

    if phase in ("see", "perceive"):
        texts = [[caption], [ask()]]
    else:
        bare = (posed.problem, posed.answer) if rng.random() < 0.3 else compute()
        texts = [[caption], [compute()], [ask()], [bare]]
    words = _written(figures.labels(figure, TINY_SIZE))
    return Lesson((figures.draw(figure, TINY_SIZE),), texts, words, ask)


def _card(rng: np.random.Generator) -> Lesson:
    """Draw a card of numbers and names in the figures' letters: 16 texts to read, not 3."""
    side, labels, shown = TINY_SIZE / TOKENS, [], {}
    for place in range(TOKENS**2):
        if rng.random() < 0.1:
            continue
        cell = counting.cell_name(place)
        number = f"{rng.integers(2, 181) / pick(rng, (1, 1, 1, 2)):g}" + pick(rng, ("", "°"))
        name = pick(rng, "ABCDEFGHJKLMNOPQRSTUVW")
        text = pick(rng, (number, number, name))
        corner = complex(place % TOKENS, place // TOKENS)
        centre = (corner + complex(*rng.uniform(0.02, 0.98, 2))) * side
        edge = 5 + 3.0 * len(text)  # keeps texts inside the margin
        centre = complex(
            min(max(centre.real, edge), TINY_SIZE - edge), min(max(centre.imag, 6), 106)
        )
        colour = figures.INK if text.isupper() else figures.GIVEN
        centre = complex(figures.on_grid(text, np.array([centre]), TINY_SIZE)[0])
        labels.append(figures.Label(text, centre, 0, colour))
        shown[cell] = text.rstrip("°")
    image = Image.new("RGB", (TINY_SIZE,) * 2, pick(rng, (figures.PAPER, *figures.TINTS)))
    figures.write(image, labels)
    cells = sorted(shown)

    def ask() -> tuple[str, str]:
        if rng.random() < 0.3:
            working, value = random_sum(rng)
            return f"What is {working}?", value
        cell = pick(rng, cells)
        return f"What is at {cell}?", f"{shown[cell]}."

    return Lesson((image,), [[ask()], [ask()]], _written(labels), ask)


def _written(labels: list[figures.Label]) -> list[tuple[str | None, ...]]:
    """Return for each visual token the name and the number that are written there."""
    words: list[list[str | None]] = [[None] * 5 for _ in range(TOKENS**2)]
    side = TINY_SIZE / TOKENS
    for label in labels:
        column, row = (int(min(max(x // side, 0), TOKENS - 1)) for x in _xy(label.centre))
        here = words[row * TOKENS + column]
        if label.text.isupper():
            here[0] = label.text
        else:
            here[1:] = (list(label.text.rstrip("°")) + [None] * 4)[:4]
    return list(map(tuple, words))


def random_sum(rng: np.random.Generator) -> tuple[str, str]:
    """Return one operation of a puzzle's working, and its result."""
    while True:
        puzzle = pick(rng, structure.IN_DOMAIN + structure.SHIFTED)(rng, *"ABCDEFGH")
        if "angle" in puzzle.working or ":" in puzzle.working:
            continue
        steps = [*arithmetic.worked(puzzle.working), f"{puzzle.value:g}"]
        at = rng.integers(len(steps) - 1)
        return steps[at], steps[at + 1]


def transformation_lesson(rng: np.random.Generator, phase: str, progress: float) -> Lesson:
    """Draw two pictures: places of objects, their changes, sometimes the question itself."""
    initial, steps, final = transformation.draw_story(rng)
    cameras = "center", pick(rng, tuple(transformation.CAMERAS))
    scenes = {"first": initial, "second": final}

    def caption(which: str) -> tuple[str, str]:
        things = sorted(scenes[which], key=lambda thing: thing.cell[::-1])
        return f"Describe the {which} picture.", _listing(map(str, things))

    def find() -> tuple[str, str]:
        which = pick(rng, ("first", "second"))
        cell, _, look = str(pick(rng, scenes[which])).partition(" ")
        return f"Where is {look} in the {which} picture?", f"{cell} {look}."

    def look() -> tuple[str, str]:
        which = pick(rng, ("first", "second"))
        cell, _, seen = str(pick(rng, scenes[which])).partition(" ")
        return f"What is at {cell} in the {which} picture?", f"{seen}."

    def became() -> tuple[str, str]:
        which = rng.integers(len(initial))
        return f"What became of {initial[which]}?", f"{final[which]}."

    def compare(which: int | None = None) -> tuple[str, str]:
        if which is None:
            which = pick(rng, [*(step.object for step in steps), rng.integers(len(initial))])
        changes = [step.value for step in steps if step.object == which]
        text = ", ".join(changes) or "same"
        return f"From {initial[which]} to {final[which]}?", f"{text}."

    def objects() -> Conversation:
        """Ask for some objects by their numbers in the list: their old places, their new looks."""
        turns = []
        for number in map(int, rng.permutation(len(initial))[:3]):
            where = f"Where is object {number}?", f"{initial[number]}."
            now = f"What became of object {number}?", f"{final[number]}."
            turns.append(pick(rng, (where, now, compare(number))))
        (question, answer), *others = turns
        return [(f"{transformation.attributes(initial)} {question}", answer), *others]

    def ask() -> tuple[str, str]:
        return pick(rng, (find, look, became, became, compare))()

    if phase in ("see", "perceive"):
        texts = [[caption(pick(rng, ("first", "second")))], [ask()]]
    else:
        bare = transformation.problem(initial), ", ".join(map(str, steps))
        last = pick(rng, (caption("second"), became(), ask(), bare))
        texts = [objects(), objects(), objects(), [last]]

    words: list[tuple[str | None, ...]] = []
    images = []
    side = TINY_SIZE / TOKENS
    for scene, camera in zip(scenes.values(), cameras):
        shown: list[tuple[str | None, ...]] = [(None,) * 5 for _ in range(TOKENS**2)]
        view = Camera(transformation.CAMERAS[camera], TINY_SIZE)
        for thing in sorted(scene, key=lambda thing: thing.cell[1]):  # the nearest wins a token
            pixel = view.project(transformation.solid(thing).centre)
            column, row = (int(min(max(x // side, 0), TOKENS - 1)) for x in pixel)
            shown[row * TOKENS + column] = tuple(f" {word}" for word in str(thing).split())
        words += shown
        images.append(transformation.picture(scene, camera, TINY_SIZE))
    return Lesson(tuple(images), texts, words, ask)


LESSONS: dict[str, Callable[[np.random.Generator, str, float], Lesson]] = {
    counting.NAME: counting_lesson,
    structure.NAME: structure_lesson,
    transformation.NAME: transformation_lesson,
}


def _listing(parts) -> str:
    return (", ".join(parts) or "nothing") + "."


def _spoken(name: str) -> str:
    return f"angle {name}" if len(name) == 3 else name


def _xy(point: complex) -> tuple[float, float]:
    return point.real, point.imag


def pick(rng: np.random.Generator, choices):
    """Return one of the choices, each equally likely."""
    return choices[rng.integers(len(choices))]
