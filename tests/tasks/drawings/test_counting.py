"""Drawn counting: exact answers, thoughts that follow from the scene, splits that don't meet."""

import re

import numpy as np
import pytest

from rrft_jax.data.drawn import DrawnSource
from rrft_jax.tasks.drawings import counting


def samples(split, number=200, size=56):
    return [counting.sample(split, 0, index, size) for index in range(number)]


def matches(words: str, thing: str) -> bool:
    """Whether "red cubes" describes "small red cube", read off the words alone."""
    wanted = [w for w in re.sub("s$", "", words).split() if w != "thing"]
    return all(word in thing.split() for word in wanted)


@pytest.mark.parametrize("split", ["train", "id", "ood"])
def test_answers_follow_from_the_thoughts_and_the_question(split):
    vocabulary = counting.SPLITS[split][1]
    for index, sample in enumerate(samples(split)):
        rng = np.random.default_rng([0, counting.SPLITS[split][0], index])
        scene = counting.draw_scene(rng, vocabulary, 56)
        removed = re.search(r"Remove all (.+?)\.", sample.problem)
        added = re.search(r"Add (\d) (.+?)\.", sample.problem)
        counted = re.search(r"How many (.+?) are", sample.problem)[1]
        steps = re.findall(r"([a-d][1-4]) ([a-z ]+?)(=\d+| no)", sample.cot)
        left = 0
        for (cell, words, mark), (place, thing) in zip(steps, scene.placed, strict=True):
            assert cell == place and set(words.split()) <= set(str(thing).split())
            gone = removed and matches(removed[1], str(thing))
            counts = matches(counted, str(thing)) and not gone
            left += counts
            assert mark == (f"={left}" if counts else " no"), sample.cot
        answer = left + (int(added[1]) if added else 0)
        assert sample.answer == str(answer), sample.problem
        if added:
            assert matches(counted, re.sub("s$", "", added[2])) and f"={answer}." in sample.cot


def test_a_comparison_stops_at_the_first_difference():
    asked = counting.Thing("large", None, "cube")
    assert asked.compare(counting.Thing("large", "red", "cube")) == (["large", "cube"], True)
    assert asked.compare(counting.Thing("small", "red", "cube")) == (["small"], False)


def test_a_sample_is_a_function_of_split_seed_and_index():
    first, again = (counting.sample("id", 3, 17, 112) for _ in range(2))
    assert (first.id, first.problem, first.cot) == (again.id, again.problem, again.cot)
    np.testing.assert_array_equal(first.images[0], again.images[0])
    others = [
        counting.sample(*key, 112) for key in (("id", 4, 17), ("id", 3, 18), ("train", 3, 17))
    ]
    assert len({o.cot for o in others} | {first.cot}) == 4
    assert len({o.id for o in others} | {first.id}) == 4


def test_size_changes_the_picture_alone():
    small, large = (counting.sample("id", 0, 5, size) for size in (112, 480))
    assert small.problem == large.problem and small.cot == large.cot
    assert small.images[0].size == (112, 112) and large.images[0].size == (480, 480)


def test_the_shifted_split_has_other_shapes_colours_and_counts():
    inside, shifted = (
        set(re.findall("[a-z]+", " ".join(s.cot for s in samples(x)))) for x in ("id", "ood")
    )
    words = set(counting.SHIFTED.shapes + counting.SHIFTED.colours)
    assert words <= shifted and not words & inside
    assert counting.SHIFTED.objects[1] > counting.IN_DOMAIN.objects[1]


def test_objects_stand_in_the_cells_that_the_thought_names():
    for index in range(20):
        rng = np.random.default_rng(index)
        scene = counting.draw_scene(rng, counting.IN_DOMAIN, 112)
        pixels = np.asarray(scene.image, int)
        spread = {}
        for cell in range(16):
            row, col = divmod(cell, 4)
            block = pixels[row * 28 : row * 28 + 28, col * 28 : col * 28 + 28]
            spread[counting.cell_name(cell)] = block.std(axis=(0, 1)).max()
        filled = [spread[c] for c in scene.cells]
        empty = [value for cell, value in spread.items() if cell not in scene.cells]
        assert min(filled) > max(empty)


def test_questions_of_all_kinds_occur_with_a_spread_of_answers():
    problems = [s.problem for s in samples("id")]
    assert any("Remove" in p and "Add" in p for p in problems)
    assert any(p.startswith("How many") for p in problems)
    answers = np.array([int(s.answer) for s in samples("id")])
    assert np.bincount(answers).max() < 0.35 * len(answers)


def test_a_source_is_a_window_of_a_split():
    source = DrawnSource("visual_counting", "train", 0, 10, 15, 56)
    assert len(source) == 5
    assert source[0].id == counting.sample("train", 0, 10, 56).id
    with pytest.raises(IndexError):
        source[5]
