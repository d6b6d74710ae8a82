"""The memory that CUDA's libraries take, beside the shapes of the calls that need it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rrft_jax.parallel.devices import absent_devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import libraries


@pytest.mark.parametrize("key_heads", [2, 8])
def test_the_work_space_of_a_backward_pass_is_its_float32_sums(gpu_plugin, key_heads):
    mesh = make_mesh(devices=absent_devices("h200:1"))
    place = NamedSharding(mesh, PartitionSpec())
    q, k = (
        jax.ShapeDtypeStruct((2, 128, heads, 64), jnp.bfloat16, sharding=place)
        for heads in (8, key_heads)
    )

    def attended(q, k, v):
        attend = jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
        return attend.astype(jnp.float32).sum()

    def space(function):
        return libraries.workspace(jax.jit(function).lower(q, k, k).compile().as_text())

    assert space(attended) == 0
    queries, rows = 2 * 128 * 8 * 64, 2 * 128 * 8
    copies = 2 * queries if key_heads < 8 else 0
    assert space(jax.grad(attended, (0, 1, 2))) == 4 * queries + 4 * rows + 2 * copies


def test_one_gpu_has_nothing_of_nccl():
    assert set(libraries.beside(2)) - set(libraries.beside(1)) == {"NCCL's buffers"}
