"""Programs of Qwen2-VL-2B's widths, compiled for GPU nodes on a machine that has no GPU."""

import dataclasses
import itertools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from configs import grpo as grpo_config
from rrft_jax import settings
from rrft_jax.data.shapes import Shape
from rrft_jax.fields import replaced
from rrft_jax.models import attention
from rrft_jax.models.attention import KeyValues
from rrft_jax.models.families import RELEASED
from rrft_jax.parallel.devices import absent_devices
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.plan.programs import abstract_prompt, bytes_a_device, make_model, programs
from rrft_jax.training import tuning
from tests.plan.test_slices import in_loops

TEXT = RELEASED["2b"].text
B, G, T, P = 8, 8, 512, 704  # of the whole node


@pytest.fixture
def node(gpu_plugin):
    return make_mesh(fsdp=8, devices=absent_devices("h200:8"))


def sizes(text: str) -> set[tuple[int, ...]]:
    """The sizes of all arrays of a program."""
    return {tuple(map(int, s.split(","))) for s in re.findall(r"[a-z]\d+\[([\d,]+)\]", text)}


def test_the_attentions_of_a_decoder_layer_store_no_pairs_and_no_prompt_twice(node):
    kernels = attention.choose("auto", node, jnp.bfloat16)
    rows = jax.sharding.NamedSharding(node, jax.sharding.PartitionSpec("fsdp"))

    def array(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    @jax.jit
    def gradient(prompt, group, mask):
        def total(prompt, group):
            attended = attention.causal(*prompt, mask, kernels)
            of_group = attention.group(
                group[0], KeyValues(*prompt[1:]), mask, KeyValues(*group[1:]), kernels
            )
            return jnp.sum(jnp.sin(attended)) + jnp.sum(jnp.sin(of_group))

        return jax.grad(total, (0, 1))(prompt, group)

    heads = [(n, TEXT.head_size) for n in (TEXT.heads, TEXT.kv_heads, TEXT.kv_heads)]
    prompt, group = ([array(*length, *x) for x in heads] for length in ((B, P), (B, G, T)))
    text = gradient.lower(prompt, group, array(B, P, dtype=bool)).compile().as_text()
    assert len(re.findall(r'custom_call_target="__cudnn\$fmhaSoftmax"', text)) == 3
    assert len(re.findall(r'custom_call_target="__cudnn\$fmhaSoftmaxBackward"', text)) == 3
    assert "fmhaScaleBias" not in text
    queries = B // 8 * G * T * TEXT.heads * TEXT.head_size
    for shape in sizes(text):
        assert math.prod(shape) <= queries, shape  # neither [G,T,P+T], nor keys [G,P+T,K,C]
        assert P + T not in shape, shape


def test_the_samplers_loop_moves_neither_caches_nor_weights(node):
    """With one layer and few words, whose number changes nothing here."""
    whole = RELEASED["2b"]
    tokens = [x.name for x in dataclasses.fields(whole) if x.name.endswith("_token")]
    model = dataclasses.replace(
        whole,
        text=dataclasses.replace(TEXT, depth=1, vocab_size=1024),
        vision=dataclasses.replace(whole.vision, depth=1),
        **{name: i for i, name in enumerate(tokens)},
    )
    config = settings.make(grpo_config.get_config("model=2b").to_dict())
    config = replaced(config, {"stages": ("grpo",)})
    found = programs(config, model, node, Shape(patches=64, prompt=P, target=T))
    program = next(x for x in found if x.name == "decode")
    prompts, sequences = program.arguments["caches"]
    caches = [*sequences.cache[0], *prompts.kv[0]]
    lengths = {math.prod(x.sharding.shard_shape(x.shape)) for x in caches}
    inside = list(in_loops(program.compiled.as_text()))
    assert sum(x.opcode == "dynamic-update-slice" for x in inside) >= 2
    for x in inside:
        assert not re.match("all-|collective|reduce-scatter", x.opcode), x
        if x.opcode in ("copy", "transpose", "convert", "concatenate", "pad", "gather"):
            assert not lengths & set(map(math.prod, sizes(x.shape))), x
    used = program.compiled.memory_analysis()
    assert used.alias_size_in_bytes > 0.9 * bytes_a_device(sequences.cache)


def test_a_tower_with_windows_gathers_weights_and_no_patches(node):
    whole = RELEASED["qwen2_5_vl_3b"]
    vision = dataclasses.replace(whole.vision, depth=2, whole_blocks=(1,))
    config = settings.make(grpo_config.get_config("model=qwen2_5_vl_3b").to_dict())
    model = make_model(config, dataclasses.replace(whole, vision=vision), node)
    prompt = abstract_prompt(model, 8, Shape(patches=960, prompt=P, target=T))
    _, params = tuning.abstract(config, model)
    gradient = jax.grad(lambda params, prompt: jnp.sum(model.encode_images(params, prompt)))
    text = jax.jit(gradient).lower(params, prompt).compile().as_text()
    gathered = re.findall(r"= (.*?) all-gather(?:-start)?\(", text)
    assert gathered
    assert not [x for x in gathered if {960, 8 * 960} & set(itertools.chain(*sizes(x)))]
