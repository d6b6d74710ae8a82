"""Windows are those of transformers, and change nothing about where visual tokens stand."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from rrft_jax.data.positions import patch_rows_cols
from rrft_jax.hf.pretrained import load_pretrained
from rrft_jax.models import windows
from tests import tiny

S = 928
# Rows of pictures, by their rows and columns of patches; 8 x 8 patches are a window of "halls".
GRIDS = {
    "one window": [(8, 8)],
    "a part of a window": [(4, 6)],
    "sides that are multiples of a window": [(16, 24)],
    "sides that are not": [(22, 34)],
    "a strip": [(2, 400)],
    "a strip that stands": [(400, 2)],
    "pictures side by side": [(10, 6), (10, 6), (4, 18), (12, 2)],
}


def arrays():
    """The places and pictures of all rows, padded: [B,S,2], [B,S]."""
    places, pictures = (
        np.zeros((len(GRIDS), S, 2), np.int32),
        np.full((len(GRIDS), S), -1, np.int32),
    )
    for b, grids in enumerate(GRIDS.values()):
        own = np.concatenate([patch_rows_cols(*grid, 2) for grid in grids])
        places[b, : len(own)] = own
        pictures[b, : len(own)] = np.repeat(range(len(grids)), [r * c for r, c in grids])
    return places, pictures


@pytest.fixture(scope="module", params=["windows", "halls"])
def towers(request, checkpoint):
    """(our visual tokens [B,N,D] of each row, theirs for the same patches)."""
    folder = checkpoint(request.param)
    theirs = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    model, params = load_pretrained(folder, np.float32)
    places, pictures = arrays()
    patches = np.random.default_rng(0).normal(size=(*pictures.shape, 1176)).astype(np.float32)
    prompt = dataclasses.replace(
        tiny.prompts(len(GRIDS)), patches=patches, patch_rows_cols=places, patch_image=pictures
    )
    encode = jax.jit(model.encode_images, compiler_options={"xla_backend_optimization_level": 0})
    ours = np.asarray(encode(params, prompt))

    def other(name):
        grids = torch.tensor([(1, *grid) for grid in GRIDS[name]])
        number = int(grids.prod(-1).sum())
        row = torch.tensor(patches[list(GRIDS).index(name), :number])
        with torch.no_grad():
            return theirs.model.visual(row, grids).pooler_output.numpy()

    return dict(zip(GRIDS, ours)), other


@pytest.mark.parametrize("name", GRIDS)
def test_visual_tokens_are_those_of_transformers(towers, name):
    ours, theirs = towers
    expected = theirs(name)
    np.testing.assert_allclose(ours[name][: len(expected)], expected, rtol=0, atol=2e-5)


def test_windows_lie_side_by_side_and_none_is_larger_than_its_side():
    places, pictures = arrays()
    found = windows.find(places, pictures, 8, 4)
    for b, ids in enumerate(np.asarray(found.ids)):
        real = ids[ids >= 0]
        assert len(real) == (pictures[b] >= 0).sum() and np.all(ids[len(real) :] == -1)
        assert np.all(np.diff(real) >= 0) and np.bincount(real).max() <= 64
        where, own = (
            np.asarray(windows.arranged(x[b : b + 1], found.order[b : b + 1]))[0]
            for x in (places, pictures)
        )
        cells = np.column_stack([own, where // 8])[: len(real)]
        same = np.all(cells[1:] == cells[:-1], axis=1)
        np.testing.assert_array_equal(same, np.diff(real) == 0)
    order, back = np.asarray(found.order), np.asarray(found.places)
    np.testing.assert_array_equal(
        np.take_along_axis(order, back, axis=1), np.broadcast_to(range(S // 4), order.shape)
    )
