"""Drawn samples on disk: the official layout, read back as what was drawn."""

import numpy as np
import pytest
from PIL import Image

from rrft_jax.data import find_splits, open_image, read_examples
from rrft_jax.data.drawn import DrawnSource
from rrft_jax.data.drawn.__main__ import main
from rrft_jax.tasks import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_a_written_folder_reads_back_as_what_was_drawn(task, tmp_path):
    arguments = [f"--task={task}", f"--out={tmp_path}", "--train=3", "--test=2", "--size=56"]
    assert main([*arguments, "--seed=4"]) == 0
    assert set(find_splits(str(tmp_path), task)) == set(TASKS[task].splits)
    for split, number in (("train", 3), *((split, 2) for split in TASKS[task].held_out)):
        source = DrawnSource(task, split, 4, 0, number, 56)
        read = read_examples(str(tmp_path), task, split)
        assert len(read) == number
        for index, example in enumerate(read):
            drawn = source[index]
            assert (example.id, example.problem, example.answer) == (
                drawn.id, drawn.problem, drawn.answer,
            )  # fmt: skip
            assert example.cot == (drawn.cot if split == "train" else None)
            assert len(example.images) == len(drawn.images)
            for file, picture in zip(example.images, drawn.images):
                np.testing.assert_array_equal(Image.open(file), open_image(picture))


def test_a_mistake_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["--task=visual_counting", f"--out={tmp_path}/file", "--train=1"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["--task=visual_counting", f"--out={tmp_path}/a", "--size=1"]) == 1
    assert "--size" in capsys.readouterr().err
