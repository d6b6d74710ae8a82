"""Drawn transformations: the calls lead from one scene to the other, and the pictures show it."""

import ast
import dataclasses
import re

import numpy as np
import pytest

from rrft_jax.data.drawn import transformation
from rrft_jax.evaluation.scores import score

MOVES = {"left": (-1, 0), "right": (1, 0), "front": (0, -1), "behind": (0, 1)}
SPLITS = tuple(transformation.SPLITS)


def samples(split, number=60, size=28):
    return [transformation.sample(split, 0, index, size) for index in range(number)]


def replay(problem: str, answer: str, cells: list[str]) -> list[list[str]]:
    """The answer's calls, applied to the problem's list: [shape, size, color, material, cell]."""
    listed = ast.literal_eval(re.search(r"\[.*\]", problem)[0])
    things = [[*values, cell] for (_, *values), cell in zip(listed, cells, strict=True)]
    for attribute, number, value in re.findall(r"change_(\w+)\((\d), '(\w+)'\)", answer):
        thing = things[int(number)]
        if attribute == "position":
            right, near = np.sum([MOVES[part] for part in value.split("_")], axis=0)
            thing[4] = f"{chr(ord(thing[4][0]) + right)}{int(thing[4][1]) + near}"
        else:
            place = ("shape", "size", "color", "material").index(attribute)
            assert thing[place] != value  # a call changes something
            thing[place] = value
    return things


@pytest.mark.parametrize("split", SPLITS)
def test_the_calls_lead_to_what_the_thought_saw(split):
    for example in samples(split):
        steps = re.findall(r"\d: (\w+) (\w+) (\w+) (\w+) (\w\d) -> (same|[^.:]+)", example.cot)
        want = replay(example.problem, example.answer, [step[4] for step in steps])
        cells = []
        for (size, color, material, shape, cell, after), thing in zip(steps, want, strict=True):
            if after != "same":
                size, color, material, shape, cell = after.split()
            assert [shape, size, color, material, cell] == thing, example.cot
            assert re.fullmatch("[a-d][1-4]", cell)
            cells.append(cell)
        assert len(set(cells)) == len(cells)  # nothing stands in the same place
        assert score(example.task, f"<answer>{example.answer}</answer>", example.answer) == 1


def test_an_attribute_of_an_object_changes_once_at_most():
    for example in samples("train"):
        calls = re.findall(r"(change_\w+\(\d)", example.answer)
        assert len(set(calls)) == len(calls) == example.answer.count("change") <= 4


def test_all_calls_directions_and_numbers_of_steps_occur():
    answers = [e.answer for e in samples("train", 300)]
    text = " ".join(answers)
    for attribute, values in (
        *transformation.VALUES.items(),
        ("position", transformation.DIRECTIONS),
    ):
        assert {
            v for a, v in re.findall(r"change_(\w+)\(\d, '(\w+)'", text) if a == attribute
        } == set(values)
    assert {answer.count("change") for answer in answers} == {1, 2, 3, 4}


def test_a_sample_is_a_function_of_split_seed_and_index():
    first, again, large = (transformation.sample("id", 3, 7, size) for size in (56, 56, 112))
    assert (first.id, first.problem, first.cot, first.answer) == (
        again.id, again.problem, again.cot, again.answer,
    )  # fmt: skip
    np.testing.assert_array_equal(first.images[1], again.images[1])
    assert (large.problem, large.cot, large.answer) == (first.problem, first.cot, first.answer)
    assert [image.size for image in large.images] == [(112, 112)] * 2
    assert len({transformation.sample(split, 3, 7, 28).problem for split in SPLITS}) == 4


def difference(before, after, camera="center") -> np.ndarray:
    """Which pixels of two scenes' pictures differ clearly."""
    a = np.asarray(transformation.picture(before, "center", 112), int)
    b = np.asarray(transformation.picture(after, camera, 112), int)
    return np.abs(a - b).max(-1) > 12


THING = transformation.Thing("medium", "red", "rubber", "cube", (1, 1))


def test_equal_scenes_give_equal_pictures_but_from_the_sides():
    assert not difference((THING,), (THING,)).any()
    for camera in ("left", "right"):
        assert difference((THING,), (THING,), camera).mean() > 0.03


@pytest.mark.parametrize(
    "change",
    [{"size": "large"}, {"color": "brown"}, {"material": "metal"}, {"material": "glass"},
     {"shape": "cylinder"}, {"cell": (1, 2)}],
    ids=str,
)  # fmt: skip
def test_a_change_shows_in_the_picture(change):
    after = dataclasses.replace(THING, **change)
    assert difference((THING,), (after,)).sum() > 60


def test_directions_are_those_of_the_central_camera():
    def centre(cell):
        empty = np.asarray(transformation.picture((), "center", 112), int)
        ball = transformation.Thing("small", "red", "rubber", "sphere", cell)
        seen = np.asarray(transformation.picture((ball,), "center", 112), int)
        return np.argwhere((seen - empty)[..., 0] > 30).mean(0)  # down, across

    down, across = centre((1, 1))
    for direction, (right, near) in MOVES.items():
        step = transformation.Step(0, "position", direction)
        scene = (transformation.Thing("small", "red", "rubber", "sphere", (1, 1)),)
        moved_down, moved_across = centre(transformation.apply(scene, step)[0].cell)
        assert np.sign(round((moved_across - across) / 8)) == right
        assert np.sign(round((moved_down - down) / 8)) == near
