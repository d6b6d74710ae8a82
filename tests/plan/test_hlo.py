"""Operations, bytes and collectives of compiled programs, beside what they must be."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rrft_jax.errors import UserError
from rrft_jax.models import attention
from rrft_jax.models.attention import KeyValues
from rrft_jax.parallel.devices import absent_devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import hlo

TOPOLOGIES = {"tpu": "v5e:2x4", "gpu": "h200:8"}


@functools.cache
def mesh(platform):
    """8 devices of this machine, or of a slice or a node that isn't here."""
    try:
        devices = absent_devices(TOPOLOGIES[platform]) if platform in TOPOLOGIES else None
    except UserError as error:
        pytest.skip(str(error))
    return make_mesh(fsdp=8, devices=devices)


def where(platform, *spec):
    return NamedSharding(mesh(platform), PartitionSpec(*spec))


def cost(function, *shapes, dtype=jnp.bfloat16, donated=(), options=None):
    arguments = [
        jax.ShapeDtypeStruct(shape, *kind or [dtype], sharding=place)
        for shape, place, *kind in shapes
    ]
    lowered = jax.jit(function, donate_argnums=donated).lower(*arguments)
    return hlo.cost(lowered.compile(options).as_text())


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_a_loop_counts_as_often_as_it_runs(platform):
    def loops(x, weights):
        def outer(x, _):
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)

        return jax.lax.scan(outer, x, None, length=5)

    place = where(platform)
    got = cost(loops, ((256, 256), place), ((7, 256, 256), place))
    assert got.flops == 5 * 7 * 2 * 256**3
    assert not got.unknown and not got.collectives


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_a_loop_that_may_end_early_counts_to_its_limit_in_its_steps(platform):
    """Its condition is more than a comparison, and a GPU's is a fusion."""

    def loops(x, w):
        def condition(carry):
            i, x = carry
            return (i < 11) & jnp.isfinite(x[0, 0])

        return jax.lax.while_loop(condition, lambda c: (c[0] + 3, jnp.tanh(c[1] @ w)), (1, x))

    place = where(platform)
    got = cost(loops, ((256, 256), place), ((256, 256), place))
    assert got.flops == 4 * 2 * 256**3  # at 1, 4, 7, 10
    assert not got.unknown


def test_a_loop_without_a_limit_counts_once_and_is_named():
    place = where("cpu")
    got = cost(
        lambda x: jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x), ((64, 64), place)
    )
    assert got.flops == 2 * 64**3 and got.unknown == {"while": 1}
    assert got.times(3).unknown == {"while": 1}


@pytest.mark.parametrize(
    "product", ["bqd,bkd->bqk", "bqd,kd->bqk", "bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd"]
)
@pytest.mark.parametrize("compiler", ["tpu", "triton", "cublas"])
def test_products_count_as_their_sums(product, compiler):
    """On a TPU their batch axes are windows of convolutions, most of which meets padding."""
    sizes = {"b": 4, "q": 128, "k": 256, "h": 6, "d": 64}
    inputs, out = product.split("->")
    place = where("tpu" if compiler == "tpu" else "gpu")
    shapes = [(tuple(sizes[c] for c in axes), place) for axes in inputs.split(",")]
    options = {"xla_gpu_enable_triton_gemm": False} if compiler == "cublas" else None
    got = cost(lambda *x: jnp.einsum(product, *x), *shapes, options=options)
    assert not got.unknown
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


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])
def test_a_slice_and_an_update_in_place_move_themselves_alone(platform):
    place = where(platform)
    rows, row, index = ((4096, 1024), place), ((1, 1024), place), ((), place, jnp.int32)
    size = 4 * 1024

    def sliced(x, i):  # of the converted form
        return jax.lax.dynamic_slice_in_dim(jnp.sin(x), i, 1)

    def updated(x, y, i):
        return jax.lax.dynamic_update_slice_in_dim(x, y, i, 0)

    def added(x, y, i):
        return x.at[i[None]].add(y)

    moved = functools.partial(cost, dtype=jnp.float32)
    assert 2 * size <= moved(sliced, rows, index).bytes < 3 * size
    assert 2 * size <= moved(updated, rows, row, index, donated=0).bytes < 3 * size
    assert 3 * size <= moved(added, rows, row, index, donated=0).bytes < 6 * size


def test_the_work_space_of_a_library_is_not_moved():
    place = where("gpu")
    options = {"xla_gpu_enable_triton_gemm": False}
    got = cost(jnp.dot, ((512, 1024), place), ((1024, 2048), place), options=options)
    assert got.bytes == 2 * (512 * 1024 + 1024 * 2048 + 512 * 2048)


LINES = """HloModule m, num_partitions=8

ENTRY %main (x: f32[16,64]) -> f32[128,64] {{
  %x = f32[16,64]{{1,0}} parameter(0)
  {}
}}
"""


@pytest.mark.parametrize(
    "groups, size",
    [
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", 2),
        ("replica_groups={}", 8),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", 2),
        ("replica_groups=mesh['a'=2,'b'=4] {'b':(1)2}", 2),
    ],
)
@pytest.mark.parametrize("start", [False, True])
def test_a_collective_is_one_of_its_group(groups, size, start):
    shard, whole = "f32[16,64]{1,0}", f"f32[{16 * size},64]{{1,0}}"
    line = f"%y = {whole} all-gather(%x), channel_id=1, {groups}, dimensions={{0}}"
    if start:
        line = f"%y = ({shard}, {whole}) all-gather-start(%x), channel_id=1, {groups}"
    got, number = hlo.cost(LINES.format(line)), 4 * 16 * 64
    assert got.collectives == {"all-gather": size * number}
    assert got.sent == (size - 1) * number
    assert got.bytes == (1 + size) * number


def test_a_call_of_an_unknown_function_is_named():
    line = '%y = f32[16,64]{{1,0}} custom-call(%x), custom_call_target="{}"'
    got = hlo.cost(LINES.format(line.format("my$kernel")))
    assert got.unknown == {"my$kernel": 1} and got.bytes == 2 * 4 * 16 * 64
    for helper in ("TopK", "AsyncCollectiveStart", "__cub$DeviceRadixSort"):
        assert not hlo.cost(LINES.format(line.format(helper))).unknown


@pytest.mark.parametrize(
    "platform, dtype", [("cpu", jnp.float32), ("tpu", jnp.bfloat16), ("gpu", jnp.bfloat16)]
)
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


@pytest.mark.parametrize("causal", [False, True])
def test_attention_by_cudnn_counts_all_pairs_but_those_above_the_diagonal(causal):
    batch, queries, keys, heads, size = 8, 256, 512, 4, 128
    place = where("gpu", "fsdp")
    shapes = [((batch, queries, heads, size), place), ((batch, keys, 2, size), place)]
    shapes += [shapes[1], ((batch, keys), place, jnp.bool_)]

    def attend(q, k, v, mask):
        mask = None if causal else jnp.broadcast_to(mask[:, None, None], (batch, 1, queries, keys))
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, is_causal=causal, implementation="cudnn"
        )

    pairs = sum(range(1, queries + 1)) if causal else queries * keys
    got = cost(attend, *shapes)
    assert got.flops == 2 * 2 * heads * size * pairs and not got.unknown

    def gradient(*x):
        return jax.grad(lambda *x: attend(*x).astype(jnp.float32).sum(), (0, 1, 2))(*x)

    # Forwards, and backwards the scores again, the gradients of weights, queries, keys, values.
    assert cost(gradient, *shapes).flops == (2 + 5) * 2 * heads * size * pairs
