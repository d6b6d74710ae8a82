"""Positions in the learned table are those of transformers, for pictures of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.vision_utils import get_vision_interpolation_indices_and_weights

from rrft_jax.data.positions import patch_rows_cols
from rrft_jax.models import interpolation
from rrft_jax.models.interpolation import PositionTable

GRIDS = [(2, 2), (2, 400), (400, 2), (6, 10), (48, 48), (50, 34), (94, 2), (64, 66)]


def row(*grids, padding=0):
    """The places and pictures of patches, in a batch of one row: [1,S,2], [1,S]."""
    places = np.concatenate([patch_rows_cols(*grid, 2) for grid in grids])
    pictures = np.repeat(range(len(grids)), [rows * cols for rows, cols in grids])
    places = np.pad(places, ((0, padding), (0, 0)))
    return places[None], np.pad(pictures, (0, padding), constant_values=-1)[None]


def dense(indices, weights, side):
    """The same weights as a matrix: patches x positions."""
    matrix = np.zeros((len(indices), side**2), np.float32)
    np.add.at(matrix, (np.arange(len(indices))[:, None], np.asarray(indices)), np.asarray(weights))
    return matrix


@pytest.mark.parametrize("side", [48, 7])
def test_weights_are_those_of_transformers(side):
    places, pictures = row(*GRIDS)
    ours = interpolation.neighbours(places[0], interpolation.sizes(places, pictures)[0], side)
    theirs = get_vision_interpolation_indices_and_weights(
        torch.tensor([(1, *grid) for grid in GRIDS]),
        side,
        align_corners=True,
        spatial_merge_size=2,
    )
    assert np.all(np.asarray(ours[0]) < side**2)
    np.testing.assert_allclose(
        dense(*ours, side), dense(*(x.numpy() for x in theirs), side), atol=1e-5
    )


@pytest.mark.parametrize("rows, cols", [(1, 1), (1, 5), (7, 1), (3, 3)])
def test_a_picture_of_any_sides_has_its_corners_at_those_of_the_table(rows, cols):
    places = np.stack(np.meshgrid(range(rows), range(cols), indexing="ij"), -1).reshape(-1, 2)
    matrix = dense(*interpolation.neighbours(places, np.array([rows, cols]), 4), 4)
    corners = [0, 3 if cols > 1 else 0, 12 if rows > 1 else 0]
    for patch, corner in zip((0, cols - 1, (rows - 1) * cols), corners):
        assert matrix[patch, corner] == 1
    np.testing.assert_allclose(matrix.sum(1), 1)
    theirs = torch.nn.functional.interpolate(
        torch.eye(16).reshape(16, 1, 4, 4), (rows, cols), mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(matrix, theirs.reshape(16, -1).T, atol=1e-6)


def test_the_size_of_a_picture_is_found_wherever_its_patches_lie():
    places, pictures = row((4, 6), (2, 12), (8, 2), padding=8)
    order = np.random.default_rng(0).permutation(pictures.shape[1])
    found = np.asarray(interpolation.sizes(places[:, order], pictures[:, order]))[0]
    expected = np.array([(4, 6), (2, 12), (8, 2), (1, 1)])[pictures[0, order]]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_a_position_adds_up_what_every_patch_gives(dtype):
    """Each weight once for each of 300 pictures; bfloat16 would stop at 256."""
    places, pictures = row(*[(6, 4)] * 300)
    table = PositionTable(5, 8, jnp.bfloat16)
    params = table.init(jax.random.key(0), places, pictures)
    params = jax.tree.map(lambda x: x.astype(dtype), params)

    @jax.jit
    def gradient(params):
        def loss(params):
            return table.apply(params, places, pictures).astype(jnp.float32).sum()

        return jax.grad(loss)(params)["params"]["embedding"]

    one, sizes = row((6, 4))[0], np.array([6, 4])
    expected = 300 * dense(*interpolation.neighbours(one[0], sizes, 5), 5).sum(0)
    got = np.asarray(gradient(params), np.float64)
    assert gradient(params).dtype == dtype
    rounding = 2**-8 if dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(got, np.tile(expected[:, None], 8), rtol=rounding)
