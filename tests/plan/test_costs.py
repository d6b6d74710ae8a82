"""The programs of one model cost what a hand count says, on a GPU as on a CPU.

The model has the widths of Qwen2-VL-2B, and one layer in each tower. `test_slices.py` holds the
programs of TPUs to the same count.
"""

import dataclasses
import functools

import jax
import pytest

from configs import grpo
from rrft_jax import settings
from rrft_jax.data.shapes import Shape
from rrft_jax.errors import UserError
from rrft_jax.fields import replaced
from rrft_jax.models.families import RELEASED
from rrft_jax.parallel.devices import absent_devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan import hlo
from rrft_jax.plan.programs import programs
from tests.plan import by_hand

pytestmark = pytest.mark.slow
DEVICES, PROMPTS, GROUP = 8, 8, 4
SHAPE = Shape(patches=1024, prompt=384, target=256)
_2B = RELEASED["2b"]
SIZES = dataclasses.replace(
    _2B,
    vision=dataclasses.replace(_2B.vision, depth=1),
    text=dataclasses.replace(_2B.text, depth=1),
)
FORWARDS = {"prefill": GROUP, "decode": GROUP, "reference": GROUP}  # and completions of a prompt
PROGRAMS = {"cpu": FORWARDS, "gpu": {"sft": 1, **FORWARDS, "update": GROUP}}


@functools.cache
def costs(platform):
    """Program -> its cost on one of 8 devices."""
    try:
        devices = jax.devices() if platform == "cpu" else absent_devices(f"h200:{DEVICES}")
    except UserError as error:
        pytest.skip(str(error))
    mesh = make_mesh(fsdp=DEVICES, devices=devices)
    config = replaced(
        settings.make(grpo.get_config("model=2b").to_dict()),
        {
            "sft.batch_size": PROMPTS,
            "grpo.batch_size": PROMPTS,
            "grpo.num_generations": GROUP,
            "sampling.max_new_tokens": SHAPE.target,
        },
    )
    return {
        x.name: hlo.cost(x.compiled.as_text(), x.branch)
        for x in programs(config, SIZES, mesh, SHAPE)
        if x.name in PROGRAMS[platform]
    }


@pytest.mark.parametrize(
    "platform, name, group", [(key, *item) for key in PROGRAMS for item in PROGRAMS[key].items()]
)
def test_the_operations_of_a_program_are_those_of_a_hand_count(platform, name, group):
    cost = costs(platform)[name]
    flops = by_hand.Flops(SIZES, SHAPE, PROMPTS, group, SHAPE.target)
    want = getattr(flops, "score" if name == "reference" else name)
    assert DEVICES * cost.flops == pytest.approx(want, rel=0.005)
    assert not cost.unknown


def test_a_token_on_a_gpu_reads_the_weights_and_the_caches_once():
    cost, sequences = costs("gpu")["decode"], PROMPTS * GROUP // DEVICES
    prompts = PROMPTS // DEVICES
    want = by_hand.decoding_bytes(SIZES, SHAPE, prompts, sequences, SHAPE.target)
    # The logits are read several times, in float32.
    logits = 4 * sequences * SIZES.text.vocab_size
    assert want < cost.bytes / SHAPE.target < want + 20 * logits


def test_a_gpu_gathers_weights_in_bfloat16_and_scatters_gradients_in_float32():
    prefill, update = (costs("gpu")[name] for name in ("prefill", "update"))
    weights = by_hand.gathered_bytes(SIZES)
    assert prefill.collectives["all-gather"] == pytest.approx(weights, rel=0.001)
    assert update.collectives["reduce-scatter"] == pytest.approx(2 * weights, rel=0.01)
    share = (DEVICES - 1) / DEVICES
    assert prefill.sent == pytest.approx(sum(prefill.collectives.values()) * share, rel=0.01)
