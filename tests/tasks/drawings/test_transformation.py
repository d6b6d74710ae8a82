"""Drawn transformations: calls that lead from one picture to the other, and pictures that tell."""

import ast
import dataclasses
import functools
import itertools
import re

import numpy as np
import pytest

from rrft_jax.data import open_image
from rrft_jax.rewards.transformation import parse_calls, partial_credit
from rrft_jax.tasks.drawings import transformation
from rrft_jax.tasks.drawings.transformation import DIRECTIONS, SPLITS, VALUES, Thing, picture

ATTRIBUTES = ("shape", "size", "color", "material")  # in the order of the problem's list
CUBE = Thing("medium", "red", "rubber", "cube", (1, 1))


@functools.cache
def samples(split="id", number=150):
    return [transformation.sample(split, 0, index, 28) for index in range(number)]


def story(split, index):
    return transformation.draw_story(np.random.default_rng([0, SPLITS[split][0], index]))


def stories(number=150):
    return (story("id", index) for index in range(number))


def pixels(thing, camera="center", size=112):
    things = thing if isinstance(thing, tuple) else (thing,)
    return np.asarray(picture(things, camera, size), int)


def spot(thing, camera="center"):
    """[down, across]: the middle of what a thing changes in the picture of an empty ground."""
    differs = np.abs(pixels(thing, camera) - pixels((), camera)).max(-1) > 40
    return np.argwhere(differs).mean(0)


def listed(problem):
    """{id: its attributes}, read off the problem's text."""
    objects = ast.literal_eval(re.search(r"\[.*\]", problem)[0])
    return {int(number): dict(zip(ATTRIBUTES, words)) for number, *words in objects}


@pytest.mark.parametrize("split", SPLITS)
def test_the_answers_calls_turn_the_listed_objects_into_the_final_scene(split):
    for index, sample in enumerate(samples(split, 60)):
        initial, _, final = story(split, index)
        objects = listed(sample.problem)
        cells = {number: thing.cell for number, thing in enumerate(initial)}
        for name, number, value in re.findall(r"change_(\w+)\((\d), '(\w+)'\)", sample.answer):
            if name == "position":
                column, row = cells[int(number)]
                column += ("right" in value) - ("left" in value)
                row += ("behind" in value) - ("front" in value)
                cells[int(number)] = column, row
                assert 0 <= min(column, row) and max(column, row) < 4
                assert len(set(cells.values())) == len(cells)  # on the way, too
            else:
                assert objects[int(number)][name] != value
                objects[int(number)][name] = value
        for number, thing in enumerate(final):
            assert objects[number] == {name: getattr(thing, name) for name in ATTRIBUTES}
            assert cells[number] == thing.cell


def test_an_answer_is_worth_everything_and_changes_nothing_twice():
    for sample in samples():
        calls = parse_calls(sample.answer)
        assert partial_credit(sample.answer, sample.answer) == 1
        assert 1 <= len(calls) <= 4 and sample.answer.count("change_") == len(calls)
        assert len({(call.function, call.object) for call in calls}) == len(calls)


def test_no_other_pairing_of_the_objects_explains_the_pictures_as_briefly():
    def cost(before, after):
        far = any(abs(a - b) > 1 for a, b in zip(before.cell, after.cell))
        return 99 * far + sum(
            getattr(before, a) != getattr(after, a) for a in (*ATTRIBUTES, "cell")
        )

    for initial, steps, final in stories(60):
        costs = [sum(map(cost, initial, order)) for order in itertools.permutations(final)]
        assert costs[0] == len(steps) < min(costs[1:])  # the first order is the scene's own


def test_two_that_would_trade_places_are_two_that_trade_colours():
    blue = dataclasses.replace(CUBE, color="blue", cell=(2, 1))
    traded = tuple(dataclasses.replace(a, color=b.color) for a, b in ((CUBE, blue), (blue, CUBE)))
    assert not transformation._shortest((CUBE, blue), traded, 2)


def test_thoughts_name_every_object_and_all_that_changes():
    for sample, (initial, _, final) in zip(samples(), stories()):
        sentences = re.findall(r"(\d): (.+?) -> (.+?): (.+?)\.", sample.cot)
        assert [int(number) for number, *_ in sentences] == list(range(len(initial)))
        called = []
        for number, before, after, compared in sentences:
            assert before == str(initial[int(number)])
            assert after == str(final[int(number)])
            words = re.findall(r"same|change_\w+\(.+?\)", compared)
            assert " ".join(words) == compared
            cells, *looks = zip(before.split(), after.split(), strict=True)
            for word, (old, new) in zip(words, (*looks, cells), strict=True):
                assert (word == "same") == (old == new)
            called += [word for word in words if word != "same"]
        assert ", ".join(called) == sample.answer


def test_objects_are_numbered_as_one_reads_the_first_picture():
    for initial, *_ in stories(40):
        cells = [thing.cell[::-1] for thing in initial]
        assert cells == sorted(cells)


def test_calls_of_all_kinds_and_lengths_occur():
    calls = [parse_calls(sample.answer) for sample in samples()]
    seen = {(call.function, call.value) for call in itertools.chain(*calls)}
    every = VALUES | {"position": tuple(DIRECTIONS)}
    assert seen == {(f"change_{name}", value) for name in every for value in every[name]}
    assert {len(c) for c in calls} == {1, 2, 3, 4}
    assert {len(listed(sample.problem)) for sample in samples()} == {3, 4, 5}


def test_a_sample_is_a_function_of_split_seed_and_index():
    first, again = (transformation.sample("ood-left", 3, 17, 56) for _ in range(2))
    assert first.id == again.id == "transformation-ood-left-3-17"
    assert (first.problem, first.answer, first.cot) == (again.problem, again.answer, again.cot)
    for image, other in zip(first.images, again.images, strict=True):
        np.testing.assert_array_equal(open_image(image), open_image(other))
    keys = [("ood-left", 4, 17), ("ood-left", 3, 18), *((split, 3, 17) for split in SPLITS)]
    others = [transformation.sample(*key, 28) for key in keys]
    assert len({o.cot for o in others}) == len({o.id for o in others}) == len(keys)


def test_size_changes_the_pictures_alone():
    small, large = (transformation.sample("id", 0, 5, size) for size in (112, 240))
    assert (small.problem, small.answer, small.cot) == (large.problem, large.answer, large.cot)
    assert [i.size for i in small.images + large.images] == [(112, 112)] * 2 + [(240, 240)] * 2
    shrunk = np.asarray(open_image(large.images[0]).resize((112, 112)), int)
    assert np.abs(shrunk - np.asarray(open_image(small.images[0]))).mean() < 3  # and shows the same


def test_the_second_picture_shows_the_final_scene_from_the_splits_camera():
    for split, (stream, camera) in SPLITS.items():
        initial, _, final = transformation.draw_story(np.random.default_rng([0, stream, 0]))
        first, second = map(open_image, transformation.sample(split, 0, 0, 56).images)
        np.testing.assert_array_equal(first, picture(initial, "center", 56))
        np.testing.assert_array_equal(second, picture(final, camera, 56))


def test_the_shifted_cameras_go_around_the_ground():
    views = {camera: pixels(CUBE, camera) for camera in transformation.CAMERAS}
    for one, other in itertools.combinations(views.values(), 2):
        assert np.abs(one - other).mean() > 2
    right = Thing("small", "red", "rubber", "sphere", (3, 1))
    # From the left, what is on the right is far, so higher; from the right it is near.
    assert spot(right, "left")[0] < spot(right)[0] < spot(right, "right")[0]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_things_move_where_the_call_says(direction):
    moved = transformation.apply((CUBE,), transformation.Step(0, "position", direction))[0]
    down, across = spot(moved) - spot(CUBE)
    for word, distance in (
        ("left", -across),
        ("right", across),
        ("front", -down),  # onwards as the camera looks: up in the picture
        ("behind", down),
    ):
        if word in direction:
            assert distance > 8
    if direction in ("left", "right"):
        assert abs(down) < 1


def test_every_value_of_an_attribute_looks_different():
    for size, shape in itertools.product(("small", "large"), VALUES["shape"]):
        start = Thing(size, "green", "rubber", shape, (2, 2))
        for name in ATTRIBUTES:
            steps = [transformation.Step(0, name, value) for value in VALUES[name]]
            shown = [pixels(transformation.apply((start,), step)) for step in steps]
            for one, other in itertools.combinations(shown, 2):
                assert (np.abs(one - other).max(-1) > 25).sum() > 20, (start, name)


def test_sizes_cover_more_and_metal_shines_and_glass_lets_the_ground_through():
    areas = [
        (np.abs(pixels(Thing(size, "red", "rubber", "sphere", (1, 1))) - pixels(())) > 40).sum()
        for size in ("small", "medium", "large")
    ]
    assert areas[0] * 1.5 < areas[1] and areas[1] * 1.5 < areas[2]
    for shape in VALUES["shape"]:
        ball = {m: Thing("large", "blue", m, shape, (1, 1)) for m in VALUES["material"]}
        shown = {material: pixels(thing) for material, thing in ball.items()}
        differs = np.abs(shown["rubber"] - pixels(())).max(-1) > 40
        reds = {material: image[differs][:, 0] for material, image in shown.items()}
        assert reds["metal"].max() > reds["rubber"].max() + 40  # blue rubber stays blue
        assert np.median(reds["glass"]) > np.median(reds["rubber"])


def test_nothing_stands_out_of_sight():
    for _, _, final in stories(15):
        for camera in transformation.CAMERAS:
            everything = pixels(final, camera)
            for number in range(len(final)):
                without = pixels(final[:number] + final[number + 1 :], camera)
                assert (np.abs(everything - without).max(-1) > 30).sum() > 8
