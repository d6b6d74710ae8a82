"""The programs of Qwen2-VL-2B, compiled for TPU slices on a machine that has none."""

import contextlib
import functools
import importlib.metadata
import math
import pathlib
import re
from collections import Counter
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest

from configs import grpo as grpo_config
from rrft_jax import settings
from rrft_jax.data.shapes import Shape
from rrft_jax.fields import replaced
from rrft_jax.models import attention
from rrft_jax.models.families import RELEASED
from rrft_jax.parallel.devices import limits, slice_devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import __main__ as command
from rrft_jax.plan import hlo, report
from rrft_jax.plan.programs import bytes_a_device, programs
from tests.plan import by_hand

pytestmark = pytest.mark.slow
SIZES = RELEASED["2b"]
NAMES = ("v5e", "v6e")
SLICES = [("v5e:2x4", 1), ("v6e:2x4", 2)]  # and `mesh.tensor`
SHAPE = Shape(patches=2448, prompt=704, target=512)  # 480,000 pixels, and a question


# XLA's levels, which take a fraction of the time. What is asked of the programs holds at each.
QUICK = {"jax_optimization_level": "O0", "jax_memory_fitting_level": "O0"}
USUAL = {name: getattr(jax.config, name) for name in QUICK}


@contextlib.contextmanager
def compiling(levels):
    before = {name: getattr(jax.config, name) for name in levels}
    for name, level in levels.items():
        jax.config.update(name, level)
    try:
        yield
    finally:
        for name, level in before.items():
            jax.config.update(name, level)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    with compiling(QUICK):
        yield


@pytest.fixture
def compiled(request):
    """(the config, its mesh, its programs by name), those of GRPO."""
    return grpo(*request.param)


@functools.cache  # both tests of a slice need the prompts' program to have been compiled
def grpo(topology, tensor):
    config = settings.make(grpo_config.get_config("model=2b").to_dict())
    config = replaced(config, {"stages": ("grpo",), "mesh.tensor": tensor})
    mesh = make_mesh(**config.mesh.axes, devices=slice_devices(topology))
    return config, mesh, {x.name: x for x in programs(config, SIZES, mesh, SHAPE)}


@pytest.mark.parametrize("compiled", SLICES, indirect=True, ids=NAMES)
def test_the_update_of_2b_fits_a_slice(compiled):
    config, mesh, program = compiled[0], compiled[1], compiled[2]["update"]
    text = program.compiled.as_text()

    # Each attention forwards, again in the recomputed layer, and backwards in two kernels.
    kernels = re.findall(r"%splash_(\w+?)_segmented\S* = .*=\"tpu_custom_call\"", text)
    assert Counter(kernels) == {"mha_fwd": 6, "mha_dq": 3, "mha_dkv": 3}

    # The state is written over, and all of it leaves room.
    used = program.compiled.memory_analysis()
    params = program.arguments["parameters"]
    state = bytes_a_device((params, program.arguments["optimizer"]))
    assert used.alias_size_in_bytes >= state
    needed = used.argument_size_in_bytes + used.temp_size_in_bytes
    room = limits(mesh.devices.flat[0]).memory
    assert needed + sum(map(bytes_a_device, program.held.values())) < 0.8 * room

    assert mesh.size * hlo.cost(text).flops == pytest.approx(flops(config).update, rel=0.04)

    # Weights are gathered twice a micro-batch, forwards and backwards, in bfloat16. (Over `tensor`
    # activations are gathered as well, which can't be told from them.)
    if mesh.shape["tensor"] == 1:
        whole = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
        gathered = hlo.cost(text).collectives["all-gather"]
        micro_batches = config.grpo.batch_size // mesh.shape["fsdp"]
        assert gathered < 2 * micro_batches * whole * 2

    # What tokens and devices give to a gradient is added up in float32.
    assert not re.search(r"= bf16\S* scatter\(", text)
    assert not [x for x in sums(text) if x.startswith("bf16")]

    # No array has more of the vocabulary than a chunk's logits, or a device's part of the head.
    vocabulary = SIZES.text.vocab_size // mesh.size
    chunk = mesh.shape["fsdp"] * config.grpo.num_generations * config.model.logit_chunk * vocabulary
    shapes = {tuple(map(int, s.split(","))) for s in re.findall(r"[a-z]\d+\[([\d,]+)\]", text)}
    logits = {math.prod(s) for s in shapes if vocabulary in s and config.model.logit_chunk in s}
    assert max(logits) == chunk
    weights = {math.prod(s) for s in shapes if vocabulary in s} - logits
    assert max(weights) <= SIZES.text.vocab_size * SIZES.text.width / mesh.shape["tensor"]


def flops(config: settings.Config) -> by_hand.Flops:
    stage, length = config.grpo, config.sampling.max_new_tokens
    return by_hand.Flops(SIZES, SHAPE, stage.batch_size, stage.num_generations, length, backward=7)


def sums(text: str) -> list[str]:
    """Shapes of the results of a program's sums, but of those that have a single term."""
    shapes = dict(re.findall(r"%([\w.\-]+) = ([a-z]\w*\[[\d,]*\])", text))
    found = re.findall(r"= ([a-z]\w*\[[\d,]*\])\S* reduce\(%([\w.\-]+)", text)

    def size(shape: str) -> int:
        return math.prod(map(int, re.findall(r"\d+", shape.partition("[")[2])))

    return [shape for shape, of in found if size(shapes[of]) > size(shape)]


def in_loops(text: str) -> Iterator[hlo.Instruction]:
    """Every instruction that some loop runs, those of the computations that it calls included."""
    computations = hlo.Module.parse(text).computations
    loops = [x for body in computations.values() for x in body.values() if x.opcode == "while"]
    pending, seen = [name for x in loops for name in x.called("body")], set()
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            for x in computations[name].values():
                yield x
                pending += x.called("calls", "to_apply", "body", "branch_computations")


@pytest.mark.parametrize("compiled", SLICES, indirect=True, ids=NAMES)
def test_the_samplers_loop_reads_weights_and_caches_and_moves_nothing_else(compiled):
    config, mesh, by_name = compiled
    program = by_name["decode"]
    text, length = program.compiled.as_text(), config.sampling.max_new_tokens
    weights, caches = (
        bytes_a_device(program.arguments[name]) for name in ("sampler's weights", "caches")
    )
    dearest = hlo.cost(text)
    # Where `tensor` splits the weights, not with what top-k and top-p look for among the logits.
    cost = hlo.cost(text, branch=0) if mesh.shape["tensor"] > 1 else dearest
    assert weights < cost.bytes / length < 1.2 * (weights + caches)
    assert mesh.size * cost.flops == pytest.approx(flops(config).decode, rel=0.005)
    # Of the cache a token is written, in place.
    inside = list(in_loops(text))
    for x in program.arguments["caches"][1].cache[0]:
        sizes = ",".join(map(str, x.sharding.shard_shape(x.shape)))
        assert not [x for x in inside if x.opcode == "copy" and f"[{sizes}]" in x.shape]
    assert program.compiled.memory_analysis().alias_size_in_bytes > 0.9 * bytes_a_device(
        program.arguments["caches"][1].cache
    )
    # Nothing like a weight is gathered at a token, nor logits, but where top-p alone sorts them.
    gathered = [x for x in inside if x.opcode.startswith("all-gather")]
    gathered = [x for x in gathered if "/branch_2_fun/" not in x.attributes]
    smallest = SIZES.text.width * SIZES.text.kv_heads * SIZES.text.head_size
    for x in gathered:
        size = math.prod(map(int, re.search(r"\[([\d,]+)\]", x.shape)[1].split(",")))
        assert size < smallest / 4, x
    assert dearest.sent / length < 1e-2 * weights


def test_windows_cost_in_proportion_to_the_patches_and_pictures_to_their_square():
    """By the blocks that the kernels of a v5e visit; with heads of Qwen2.5-VL."""
    mesh = make_mesh(data=4, devices=slice_devices("v5e:2x2"))
    kernels = attention.choose("auto", mesh, jnp.bfloat16)

    def flops(patches, longest):
        q = jax.ShapeDtypeStruct((4, patches, 16, 80), jnp.bfloat16)
        ids = jax.ShapeDtypeStruct((4, patches), jnp.int32)
        rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
        attend = jax.jit(
            lambda q, ids: attention.segment(q, q, q, ids, kernels, longest), in_shardings=rows
        )
        return hlo.cost(attend.lower(q, ids).compile().as_text()).flops

    assert flops(8192, 64) / flops(4096, 64) == pytest.approx(2)
    assert flops(8192, None) / flops(4096, None) == pytest.approx(4)


def test_a_row_of_the_documented_table():
    """2B's SFT on four v5e chips."""
    argv = ["--config=configs/sft.py:model=2b", "--topology=v5e:2x2"]
    with compiling(USUAL):  # as the command compiles
        [(_, plan)] = command.run(*command.read(argv))
    spare = report.as_dict(plan)["spare"] / 2**30
    page = pathlib.Path("docs/performance.md").read_text(encoding="utf-8")
    documented = float(re.search(r"\| SFT, 2B \| v5e:2x2 \| ([\d.]+) \|", page)[1])
    same = f"Compiled by\nlibtpu {importlib.metadata.version('libtpu')}." in page
    assert abs(documented - spare) <= (0.05 if same else 0.2), spare  # its own compiler, or another
