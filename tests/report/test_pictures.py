"""Pictures of a page: only files that the run kept, each once, up to a limit."""

import pytest

from rrft_jax.data.thumbnails import Thumbnails, thumbnails
from rrft_jax.report import pictures as module
from rrft_jax.report.pictures import Pictures
from tests.report.files import drawn


@pytest.fixture
def kept(tmp_path):
    """The names of three pictures in the folder of a run."""
    small = thumbnails([drawn((9, 9), n) for n in range(3)])
    return Thumbnails(tmp_path).keep({"pictures": small})["pictures"]


def test_a_picture_is_held_once(tmp_path, kept):
    pictures = Pictures()
    assert pictures.add(tmp_path, kept) == [0, 1, 2]
    assert pictures.add(tmp_path, kept[::-1]) == [2, 1, 0] and len(pictures.files) == 3
    assert all(one["data"].startswith("data:image/jpeg;base64,") for one in pictures.files)


def test_other_files_are_never_read(tmp_path, kept):
    (tmp_path / "secret").write_bytes(b"\xff\xd8\xff secret")
    (tmp_path / kept[0]).write_bytes(b"no picture")
    names = [
        "secret",
        "pictures/../secret",
        "/etc/passwd",
        "",
        7,
        kept[0],
        "pictures/" + "0" * 16 + ".jpg",
    ]
    pictures = Pictures()
    pictures.add(tmp_path, names)
    assert len(pictures.files) == len(names) and all("missing" in one for one in pictures.files)
    assert pictures.add(tmp_path, None) == pictures.add(tmp_path, "7") == []


@pytest.mark.parametrize("limit", [{"MOST": 2}, {"MOST_BYTES": 1_000}])
def test_past_a_limit_a_text_says_so(tmp_path, kept, limit, monkeypatch):
    for name, value in limit.items():
        monkeypatch.setattr(module, name, value)
    pictures = Pictures()
    pictures.add(tmp_path, kept)
    assert ["data" in one for one in pictures.files][-1] is False
    assert pictures.files[-1]["missing"].startswith("left out: a page holds")
