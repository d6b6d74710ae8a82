"""Drawn geometry: answers that the drawn points confirm, figures that are clear at any size."""

import cmath
import math
import re

import numpy as np
import pytest

from rrft_jax.data import open_image
from rrft_jax.tasks.drawings import figures, structure

SPLITS = ("train", "id", "ood")


def questions(split, number=300):
    return [structure.question(split, 0, index) for index in range(number)]


def measure(figure: figures.Figure, what: str) -> float:
    """An angle in degrees, a length, a perimeter or an area, off the points as they are drawn."""
    at = [figure.points[name] for name in (what if len(what) <= 3 else figure.faces[0])]
    if len(what) == 2:
        return abs(at[0] - at[1])
    if len(what) == 3:
        return abs(math.degrees(cmath.phase((at[0] - at[1]) / (at[2] - at[1]))))
    sides = list(zip(at, at[1:] + at[:1]))
    if "perimeter" in what:
        return sum(abs(a - b) for a, b in sides)
    return abs(sum((a.conjugate() * b).imag for a, b in sides)) / 2


def chosen(question: structure.Question) -> str:
    """The answer's value: itself, or what its letter stands for."""
    options = dict(re.findall(r"\(([A-D])\) (\S+)", question.problem.partition("Choices:")[2]))
    return options[question.answer] if options else question.answer


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_written_and_what_is_asked_are_true_of_the_drawn_points(split):
    for question in questions(split):
        figure = question.puzzle.figure
        texts = {name: text for name, text in figure.marks.items() if text != "x"}
        for name, text in texts.items():
            assert measure(figure, name) == pytest.approx(float(text)), question.problem
        unknown = [name for name, text in figure.marks.items() if text == "x"]
        asks = re.sub(r" Choices:.*| if .*", "", question.problem).rstrip("?.")
        asked = re.search(r"(x|[A-Z]{2,3}|the (area|perimeter) of \w+ \w+|\w+'s perimeter)$", asks)[
            1
        ]
        assert (asked == "x") == bool(unknown) and asked not in texts
        value = measure(figure, unknown[0] if unknown else asked)
        assert value == pytest.approx(float(chosen(question))), question.problem


@pytest.mark.parametrize("split", SPLITS)
def test_thoughts_read_the_figure_and_compute_the_answer(split):
    for question in questions(split):
        marks = question.puzzle.figure.marks
        read = dict(
            re.findall(r"(?:^|, )(?:angle )?([A-Z]{2,3}) = ([\d.]+)(?=[,.] )", question.cot)
        )
        assert read == {name: text for name, text in marks.items() if text != "x"}
        *_, last = question.cot.split(", so ")
        _, *links = re.sub(r"\.( \([A-D]\) .*)?$", "", last).split(" = ")
        for link in links:
            link = link.removeprefix("angle ").replace("^", "**")
            value = eval(read.get(link, link), {"sqrt": math.sqrt})
            assert value == pytest.approx(float(chosen(question))), question.cot
        if question.answer in structure.OPTIONS:
            options = re.findall(r"\(([A-D])\) (\S+)", question.problem)
            tried = options[: 1 + structure.OPTIONS.index(question.answer)]
            checked = " no, ".join(f"({letter}) {value}" for letter, value in tried)
            assert question.cot.endswith(f". {checked}.")


@pytest.mark.parametrize("split", SPLITS)
def test_numbers_can_be_worked_with_in_the_head(split):
    for question in questions(split):
        puzzle = question.puzzle
        for name, text in [*puzzle.figure.marks.items(), (puzzle.asked, f"{puzzle.value:g}")]:
            if text != "x":
                assert (
                    float(text) % 5 == 0 if len(name) == 3 else len(name) > 3 or float(text) <= 15
                )


@pytest.mark.parametrize("split", SPLITS)
def test_half_of_the_questions_have_four_options_and_letters_are_uniform(split):
    posed = questions(split, 2000)
    choices = [question for question in posed if "Choices:" in question.problem]
    assert 0.45 < len(choices) / len(posed) < 0.55
    for question in choices:
        options = re.findall(r"\([A-D]\) (\S+)", question.problem)
        assert len(set(options)) == 4 and min(map(float, options)) > 0
    letters = [question.answer for question in choices]
    for letter in "ABCD":
        assert 0.2 < letters.count(letter) / len(letters) < 0.3
    numbers = [question.answer for question in posed if "Choices:" not in question.problem]
    assert all(re.fullmatch(r"\d+(\.\d)?", number) for number in numbers)
    assert max(map(numbers.count, set(numbers))) < 0.06 * len(numbers)


def test_a_sample_is_a_function_of_split_seed_and_index():
    first, again = (structure.sample("id", 3, 17, 112) for _ in range(2))
    assert (first.id, first.problem, first.cot) == (again.id, again.problem, again.cot)
    np.testing.assert_array_equal(open_image(first.images[0]), open_image(again.images[0]))
    others = [
        structure.sample(*key, 112) for key in (("id", 4, 17), ("id", 3, 18), ("train", 3, 17))
    ]
    assert len({o.cot for o in others} | {first.cot}) == 4
    assert len({o.id for o in others} | {first.id}) == 4


def test_size_changes_the_picture_alone():
    for split in SPLITS:
        small, large = (structure.sample(split, 0, 5, size) for size in (112, 480))
        assert small.problem == large.problem and small.cot == large.cot
        assert small.answer == large.answer and small.id == large.id
        assert small.images[0].size == (112, 112) and large.images[0].size == (480, 480)


def test_the_shifted_split_has_other_figures_and_other_words():
    inside, shifted = (questions(split) for split in ("id", "ood"))
    kinds = [{question.kind for question in posed} for posed in (inside, shifted)]
    assert not kinds[0] & kinds[1] and len(kinds[0]) >= 9 and len(kinds[1]) >= 8
    assert all("figure, " in question.problem for question in inside)
    assert all(re.match("Find|If", question.problem) for question in shifted)


def test_problems_are_many_and_the_splits_do_not_share_them():
    seen = {split: {(q.problem, q.cot) for q in questions(split, 1000)} for split in SPLITS}
    assert all(len(problems) > 900 for problems in seen.values())
    assert len(seen["train"] & seen["id"]) < 60


@pytest.mark.parametrize("size", [112, 480])
def test_labels_are_inside_the_picture_and_clear_of_lines_and_of_each_other(size):
    touching, count = 0, 0
    for question in questions("id", 90) + questions("ood", 90):
        figure = question.puzzle.figure
        ink, labels = figures.ink(figure, size), figures.labels(figure, size)
        names = [name for name in figure.points if name.isupper()]
        assert len(labels) == len(figure.marks) + len(names)
        for i, label in enumerate(labels):
            middle, half = label.centre, label.half
            for low, high in ((middle.real, half.real), (middle.imag, half.imag)):
                assert low - high >= 0 and low + high <= size
            gaps = ink - middle
            crossed = (abs(gaps.real) < half.real - 0.5) & (abs(gaps.imag) < half.imag - 0.5)
            count, touching = count + 1, touching + bool(crossed.any())
            for other in labels[:i]:
                gap, room = middle - other.centre, half + other.half
                assert abs(gap.real) > room.real - 1 or abs(gap.imag) > room.imag - 1
    assert touching / count < (0.02 if size == 112 else 0.002)


def test_the_unknown_is_drawn_in_its_own_colour():
    for question in questions("id", 40):
        pixels = np.asarray(figures.draw(question.puzzle.figure, 112), int)
        red = (pixels[..., 0] > pixels[..., 1] + 80) & (pixels[..., 0] > pixels[..., 2] + 80)
        assert red.any() == ("x" in question.puzzle.figure.marks.values())


def test_an_angle_label_stands_within_its_angle():
    for question in questions("id", 60) + questions("ood", 60):
        figure = question.puzzle.figure
        at, labels = figures.fit(figure, 224), figures.labels(figure, 224)
        for name, text in figure.marks.items():
            if len(name) == 3:
                a, b, c = (at[corner] for corner in name)
                label = min(
                    (label for label in labels if label.text == f"{text}°"),
                    key=lambda label, b=b: abs(label.centre - b),
                )
                parts = [abs(cmath.phase((label.centre - b) / (side - b))) for side in (a, c)]
                assert sum(parts) == pytest.approx(abs(cmath.phase((a - b) / (c - b))))
