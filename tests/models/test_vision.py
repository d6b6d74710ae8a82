"""The features of pictures of all shapes are those of transformers, for every kind of tower."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from rrft_jax.data.positions import patch_rows_cols
from rrft_jax.hf.pretrained import load_pretrained
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


@pytest.fixture(scope="module", params=["windows", "halls", "deep", "shafts"])
def towers(request, checkpoint):
    """(our features of each row, theirs for the same patches): visual tokens, then deepstack's."""
    folder = checkpoint(request.param)
    theirs = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    model, params = load_pretrained(folder, np.float32)
    places, pictures = arrays()
    shape = (*pictures.shape, model.config.vision.patch_values)
    patches = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    prompt = dataclasses.replace(
        tiny.prompts(len(GRIDS)), patches=patches, patch_rows_cols=places, patch_image=pictures
    )
    encode = jax.jit(model.encode_features)
    visual, deepstack = encode(params, prompt)
    ours = np.stack([visual, *([] if deepstack is None else deepstack)], axis=1)

    def other(name):
        grids = torch.tensor([(1, *grid) for grid in GRIDS[name]])
        number = int(grids.prod(-1).sum())
        row = torch.tensor(patches[list(GRIDS).index(name), :number])
        with torch.no_grad():
            tower = theirs.model.visual(row, grids)
        return np.stack([tower.pooler_output, *getattr(tower, "deepstack_features", ())])

    return dict(zip(GRIDS, ours)), other


@pytest.mark.parametrize("name", GRIDS)
def test_features_are_those_of_transformers(towers, name):
    ours, theirs = towers
    expected = theirs(name)
    assert len(ours[name]) == len(expected)
    got = ours[name][:, : expected.shape[1]]
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)
