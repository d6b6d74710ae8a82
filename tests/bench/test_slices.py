"""The update of Qwen2-VL-2B, compiled for TPU slices on a machine that has none."""

import math
import re
from collections import Counter

import jax
import pytest

from configs import grpo as grpo_config
from rrft_jax.bench import memory
from rrft_jax.models.config import RELEASED
from rrft_jax.parallel.mesh import make_mesh

SIZES = RELEASED["2b"]
PATCHES, PROMPT_TOKENS = 2448, 704  # a picture of 480,000 pixels, and a question


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """It takes a fraction of the time, and what is asked of the programs doesn't depend on it."""
    names = ("jax_exec_time_optimization_effort", "jax_memory_fitting_effort")
    for name in names:
        jax.config.update(name, -1.0)
    yield
    for name in names:
        jax.config.update(name, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "topology, axes, room",
    [("v5e:2x4", {"fsdp": 8}, 16e9), ("v6e:2x4", {"fsdp": 4, "tensor": 2}, 32e9)],
)
def test_the_update_of_2b_fits_a_slice(topology, axes, room):
    config = grpo_config.get_config("model=2b")
    config.grpo.batch_size = 16
    mesh = make_mesh(**axes, devices=memory.slice_devices(topology))
    one = memory.programs(config, SIZES, mesh, PATCHES, PROMPT_TOKENS)
    assert one.model.kernels.form == "splash"
    compiled = one.update.lower(one.state, one.batch).compile()

    # Each attention forwards, again in the recomputed layer, and backwards in two kernels.
    program = compiled.as_text()
    kernels = re.findall(r"%splash_(\w+?)_segmented\S* = .*=\"tpu_custom_call\"", program)
    assert Counter(kernels) == {"mha_fwd": 6, "mha_dq": 3, "mha_dkv": 3}

    # The state is written over, and all of it leaves room for the reference and the caches.
    used = compiled.memory_analysis()
    assert used.alias_size_in_bytes >= memory.bytes_a_device(one.state)
    needed = used.argument_size_in_bytes + used.temp_size_in_bytes
    assert needed + memory.bytes_a_device(one.reference) < 0.8 * room

    # No array has the vocabulary for more than a chunk of a micro-batch's tokens on this device.
    text, rows = SIZES.text, 16 // config.grpo.micro_batches // mesh.shape["fsdp"]
    vocabulary = text.vocab_size // mesh.shape["tensor"]
    chunk = rows * config.grpo.num_samples * config.model.logit_chunk * vocabulary
    shapes = {
        tuple(map(int, shape.split(","))) for shape in re.findall(r"[a-z]\d+\[([\d,]+)\]", program)
    }
    logits = {math.prod(s) for s in shapes if vocabulary in s and config.model.logit_chunk in s}
    assert max(logits) == chunk
    weights = {math.prod(s) for s in shapes if vocabulary in s} - logits
    assert max(weights) <= text.vocab_size * text.width
