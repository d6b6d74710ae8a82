"""Operations, bytes and collectives of compiled programs, beside what they must be."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rrft_jax.models import attention
from rrft_jax.models.attention import KeyValues
from rrft_jax.parallel.devices import slice_devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import hlo


@functools.cache
def mesh(platform):
    """8 devices of this machine, or of a slice that isn't here."""
    return make_mesh(fsdp=8, devices=slice_devices("v5e:2x4") if platform == "tpu" else None)


def where(platform, *spec):
    return NamedSharding(mesh(platform), PartitionSpec(*spec))


def cost(function, *shapes, dtype=jnp.bfloat16):
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape, place in shapes]
    return hlo.cost(jax.jit(function).lower(*arguments).compile().as_text())


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_loop_counts_as_often_as_it_runs(platform):
    def loops(x, weights):
        def outer(x, _):
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)

        return jax.lax.scan(outer, x, None, length=5)

    place = where(platform)
    got = cost(loops, ((256, 256), place), ((7, 256, 256), place))
    assert got.flops == 5 * 7 * 2 * 256**3
    assert not got.unknown_loops and not got.collectives


@pytest.mark.parametrize(
    "product", ["bqd,bkd->bqk", "bqd,kd->bqk", "bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd"]
)
def test_products_of_a_tpu_count_as_their_sums(product):
    """Their batch axes are windows of convolutions, most of which meets padding."""
    sizes = {"b": 4, "q": 128, "k": 256, "h": 6, "d": 64}
    inputs, out = product.split("->")
    place = where("tpu")
    shapes = [(tuple(sizes[c] for c in axes), place) for axes in inputs.split(",")]
    got = cost(lambda *x: jnp.einsum(product, *x), *shapes)
    number = 2
    for axis in set(product) & set(sizes):
        number *= sizes[axis]
    assert got.flops == number


def test_of_a_switch_the_named_branch_counts_or_the_dearest():
    def switch(x, index):
        once, twice = (lambda x: x @ x), (lambda x: x @ x @ x)
        return jax.lax.switch(index, (jnp.sin, twice, once), x)

    place = where("tpu")
    x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=place)
    index = jax.ShapeDtypeStruct((), jnp.int32, sharding=place)
    text = jax.jit(switch).lower(x, index).compile().as_text()
    products = [hlo.cost(text, branch).flops / (2 * 256**3) for branch in (None, 0, 1, 2)]
    assert products == [2, 0, 2, 1]


def test_of_stacked_weights_a_loop_reads_each_once():
    def layers(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    place = where("tpu")
    got = cost(layers, ((8, 2048), place), ((6, 2048, 2048), place))
    weights = 6 * 2048 * 2048 * 2
    assert weights <= got.bytes < 1.1 * weights


@pytest.mark.parametrize("platform, dtype", [("cpu", jnp.float32), ("tpu", jnp.bfloat16)])
def test_collectives_by_kind(platform, dtype):
    rows, weights = where(platform, "fsdp"), where(platform, None, "fsdp")
    whole = where(platform)

    def gathered(x, w):
        return x @ jax.lax.with_sharding_constraint(w, whole)

    got = cost(gathered, ((1024, 512), rows), ((512, 4096), weights), dtype=dtype)
    size = 512 * 4096 * dtype.dtype.itemsize
    assert got.collectives == {"all-gather": size} and got.sent == size * 7 / 8

    def summed(x):
        return jax.lax.with_sharding_constraint(x.sum(0), whole)

    got = cost(summed, ((1024, 512), rows), dtype=jnp.float32)
    assert got.collectives and set(got.collectives) <= {
        "all-reduce",
        "all-gather",
        "reduce-scatter",
    }
    assert 512 * 4 * 7 / 8 <= got.sent <= 2 * 512 * 4


def test_attention_by_a_kernel_counts_the_blocks_that_it_visits():
    """On a device 8 completions of 512 tokens over 1,024 of their prompt: 3 blocks for each."""
    batch, group, length, prompt, heads, size = 8, 8, 512, 1024, 4, 128
    place, kernels = where("tpu", "fsdp"), attention.Kernels("splash", mesh("tpu"))
    q, kv = (batch, group, length, heads, size), (batch, prompt, 2, size)
    shapes = [(q, place), (kv, place), (kv, place), ((batch, prompt), place)]
    shapes += [((batch, group, length, 2, size), place)] * 2

    def attend(q, k, v, mask, own_k, own_v):
        return attention.group(q, KeyValues(k, v), mask > 0, KeyValues(own_k, own_v), kernels)

    visited = group * length * (prompt + length)
    assert cost(attend, *shapes).flops == 2 * 2 * heads * size * visited

    def gradient(*x):
        return jax.grad(lambda *x: attend(*x).astype(jnp.float32).sum(), (0, 1))(*x)

    # Forwards, and the gradients of queries and of keys and values: 2 + 3 + 4 products.
    assert cost(gradient, *shapes).flops == (2 + 3 + 4) * 2 * heads * size * visited
