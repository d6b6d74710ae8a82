"""A question from Python becomes the example of a file, whatever holds its pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrft_jax.data import BadSample, Example, open_image
from rrft_jax.data.questions import read_question

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
ARRAY = np.asarray(PICTURE)


def file_of(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def read(row, columns=()):
    return read_question(row, "structure_perception", dict(columns))


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    PICTURE.save("a.png")


FORMS = {
    "text": "a.png",
    "home": "~/a.png",
    "path": Path("a.png"),
    "image": PICTURE,
    "array": ARRAY,
    "bytes": file_of(PICTURE),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_picture_has_any_form(form, path):
    rows = [
        *((form, "Which?"), ([form], "Which?"), ((form,), "Which?"), [form, "Which?"]),
        *({"image": form, "problem": "Which?"}, {"images": [form], "problem": "<image>Which?"}),
    ]
    for row in rows:
        example = read(row)
        assert (example.problem, example.answer) == ("Which?", "")
        assert example.task == "structure_perception"
        (image,) = example.images
        assert np.array_equal(np.asarray(open_image(image)), ARRAY)


def test_arrays_may_be_grey_or_have_an_alpha_channel():
    grey, alpha = ARRAY[..., 0], np.dstack([ARRAY, ARRAY[..., 0]])
    for array, mode in ((grey, "L"), (grey[..., None], "L"), (alpha, "RGBA"), (ARRAY, "RGB")):
        (image,) = read((array, "Which?")).images
        assert image.mode == mode and image.size == (50, 40)


def test_pictures_stand_where_the_question_has_them():
    example = read(([ARRAY, PICTURE], "From <image> to <image>?"))
    assert (example.problem, example.image_offsets) == ("From  to ?", (5, 9))
    assert read((None, "Which?")).images == read(([], "Which?")).images == ()


def test_a_record_is_read_as_in_a_file():
    row = {"image": PICTURE, "q": "Which?", "options": ["red", "blue"], "answer": "blue", "n": 3}
    example = read(row, {"problem": "q"})
    assert (example.problem, example.answer) == ("Which?\nA. red\nB. blue", "B")
    assert read({k: v for k, v in row.items() if k != "answer"}, {"problem": "q"}).answer == ""
    assert row["image"] is PICTURE  # the caller's own record is left alone


def test_an_example_is_one_already():
    example = Example("a", (), "Which?", "2", None, "visual_counting")
    assert read(example) is example


@pytest.mark.parametrize(
    "row, message",
    [
        (3, "3: expected .pictures, question., or a record"),
        ("Which?", "expected .pictures, question."),
        (("a.png", "Which?", 3), "expected .pictures, question."),
        ((None, " "), "the question is ' '; expected a text"),
        ((None, None), "the question is None; expected a text"),
        ((3, "Which?"), "a picture is int; expected a path, a PIL image, the bytes of a file"),
        ((ARRAY / 255, "Which?"), "an array of float64 .40, 50, 3.; expected uint8"),
        ((ARRAY[None], "Which?"), "an array of uint8 .1, 40, 50, 3.; expected uint8"),
        ((ARRAY[0, 0], "Which?"), "an array of uint8 .3.; expected uint8"),
        ((ARRAY, "<image> or <image>?"), "2 <image> in the question for 1 pictures"),
        ({"image": ARRAY / 255, "problem": "Which?"}, "an array of float64"),
        ({"image": ARRAY}, "no question; expected a text as 'problem'"),
    ],
)
def test_a_row_of_another_form_is_named(row, message):
    with pytest.raises(BadSample, match=message):
        read(row)
