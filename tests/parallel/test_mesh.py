"""The mesh: the sizes that are asked for, or one line that says why not."""

import pytest

from rrft_jax.errors import UserError
from rrft_jax.parallel.mesh import batch_parts, make_mesh


def test_one_device_is_the_default():
    assert dict(make_mesh().shape) == {"data": 1, "fsdp": 1, "tensor": 1}


def test_minus_one_takes_the_devices_that_are_left():
    mesh = make_mesh(data=-1, tensor=2)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 1, "tensor": 2}
    assert batch_parts(mesh) == 4


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"data": 16}, "needs 16 devices"),
        ({"data": -1, "fsdp": 3}, "not a multiple of 3"),
        ({"data": -1, "fsdp": -1}, "at most one -1"),
        ({"tensor": 0}, "sizes of 1 or more"),
    ],
)
def test_sizes_that_cannot_be_are_errors(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(**sizes)
