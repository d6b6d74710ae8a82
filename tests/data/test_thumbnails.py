"""A run keeps small copies of pictures of any kind; one that can't be read stops nothing."""

import io

import numpy as np
import pytest
from PIL import Image

from rrft_jax.data.thumbnails import SIDE, Thumbnails, thumbnails
from rrft_jax.tasks.example import Drawing


def picture(size, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


@pytest.mark.parametrize("size", [(1, 1), (112, 112), (640, 480), (3, 2000), (2000, 1)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_a_picture_of_any_size_and_mode_becomes_a_small_one(size, mode):
    (content,) = thumbnails([picture(size, mode)])
    small = Image.open(io.BytesIO(content))
    assert max(small.size) <= SIDE and (max(size) > SIDE or small.size == size)


def test_a_path_bytes_and_a_drawing_give_the_same(tmp_path):
    drawn = picture((100, 60))
    drawn.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    drawing = Drawing((100, 60), lambda: drawn)
    assert len(set(thumbnails([drawn, drawing, str(tmp_path / "a.png"), content]))) == 1


def test_a_row_names_files_of_the_run_s_folder(tmp_path):
    pictures = thumbnails([picture((60, 60)), b"no picture", picture((60, 60), "L")])
    row = Thumbnails(tmp_path).keep({"id": "a", "pictures": pictures})
    assert row["id"] == "a" and row["pictures"][1] == "" and len(set(row["pictures"])) == 3
    for name, content in zip(row["pictures"], pictures):
        assert not name or (tmp_path / name).read_bytes() == content
    assert Thumbnails(tmp_path / "other", writes=False).keep({"pictures": pictures}) == {
        "pictures": row["pictures"]
    }
    assert not (tmp_path / "other").exists()
    assert Thumbnails(tmp_path).keep({"id": "b"}) == {"id": "b"}
