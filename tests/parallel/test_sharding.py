"""The sharding table: where an array lies, and batches split so that no row travels."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize(
    "axes, shape, wanted",
    [
        ("BP", (8, 5), (("data", "fsdp"), None)),  # a batch lies over both
        ("BPD", (8, 5, 16), (("data", "fsdp"), None, None)),  # fsdp is taken: D stays whole
        ("LDH", (3, 16, 8), (None, "fsdp", "tensor")),
        ("LBGTKC", (3, 8, 2, 5, 2, 4), (None, ("data", "fsdp"), None, None, "tensor", None)),
        ("VD", (7, 16), (None, "fsdp")),  # 7 words don't divide over 2 devices
        ("BP", (6, 5), (None, None)),  # nor 6 rows over 4
        (".", (8,), (None,)),
    ],
)
def test_a_mesh_axis_goes_to_the_first_axis_that_asks(axes, shape, wanted):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert sharding.spec(mesh, axes, shape) == PartitionSpec(*wanted)


def test_micro_batches_join_to_the_rows_in_order():
    rows = jnp.arange(24).reshape(12, 2)
    batches = sharding.micro_batches(rows, "BT", 3)
    assert batches.shape == (3, 4, 2)
    np.testing.assert_array_equal(sharding.join_micro_batches(batches), rows)
    np.testing.assert_array_equal(batches[1], rows[1::3])


def test_every_device_keeps_its_rows_in_a_micro_batch():
    rows = np.arange(8)
    batches = np.asarray(sharding.micro_batches(rows, "B", 2))
    for device in range(4):  # of four, each has rows 2d and 2d + 1
        assert set(batches[:, device]) == {2 * device, 2 * device + 1}
