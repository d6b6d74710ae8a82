"""The groups of collectives, as XLA writes them, and what they send between nodes."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rrft_jax.parallel import gpus
from rrft_jax.parallel.devices import absent_devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import hlo
from rrft_jax.plan.hlo.groups import groups


@pytest.mark.parametrize(
    "written, expected",
    [
        ("", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups={}, x={1}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("channel_id=1, replica_groups={{0,1},{2,3}}, dimensions={0}", [[0, 1], [2, 3]]),
        ("source_target_pairs={{0,1},{1,2}}", [[0, 1], [1, 2]]),
        ("replica_groups=[2,4]<=[8], dimensions={0}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x={0}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(1)2}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=8] {'a':(4)2}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (
            "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}",
            [[0, 1], [2, 3], [4, 5], [6, 7]],
        ),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}", [[0, 2], [1, 3]]),
    ],
)
def test_each_way_of_writing_groups_is_read(written, expected):
    assert groups(written, 8).tolist() == expected


@pytest.mark.parametrize(
    "topology, connected", [("h100:2x4", 4), ("gb200:2x4", 8), ("gb200:36x2", 36)]
)
def test_nvlink_connects_a_node_or_a_rack(gpu_plugin, topology, connected):
    assert gpus.connected(absent_devices(topology)) == connected


def test_what_isnt_a_known_gpu_is_connected_throughout():
    assert gpus.connected(jax.devices()) is None


@pytest.mark.parametrize("axis", ["data", "fsdp"])
def test_between_nodes_goes_what_nvlink_does_not_carry(gpu_plugin, axis):
    """Over `data` from one node to the other; over `fsdp` inside each node."""
    mesh = make_mesh(data=2, fsdp=4, devices=absent_devices("h100:2x4"))
    rows, whole = (NamedSharding(mesh, PartitionSpec(name)) for name in (axis, None))
    x = jax.ShapeDtypeStruct((1024, 512), jnp.bfloat16, sharding=rows)
    compiled = jax.jit(lambda x: x, out_shardings=whole).lower(x).compile()
    got = hlo.cost(compiled.as_text(), connected=gpus.connected(mesh.devices.flatten()))
    parts = mesh.shape[axis]
    assert got.sent == 1024 * 512 * 2 * (parts - 1) / parts
    assert got.between == (got.sent if axis == "data" else 0)


def test_a_node_puts_together_what_it_sends(gpu_plugin):
    """Of a gather over both nodes each GPU sends its own part to one GPU of the other node."""
    mesh = make_mesh(fsdp=8, devices=absent_devices("h100:2x4"))
    rows, whole = (NamedSharding(mesh, PartitionSpec(name)) for name in ("fsdp", None))
    x = jax.ShapeDtypeStruct((1024, 512), jnp.bfloat16, sharding=rows)
    compiled = jax.jit(lambda x: x, out_shardings=whole).lower(x).compile()
    got = hlo.cost(compiled.as_text(), connected=4)
    part = 1024 * 512 * 2 / 8
    assert (got.sent, got.between) == (7 * part, part)
    compiled = jax.jit(lambda x: x.astype(jnp.float32).sum(0), out_shardings=whole).lower(x)
    got = hlo.cost(compiled.compile().as_text(), connected=4)
    assert got.between == pytest.approx(2 * 512 * 4 / 4 / 2) and got.sent > 3 * got.between
