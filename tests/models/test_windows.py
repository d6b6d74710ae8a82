"""Windows hold what transformers' hold (`test_vision.py`), and change no order of visual tokens."""

import numpy as np

from rrft_jax.models import windows
from tests.models.test_vision import S, arrays


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
