"""What a config needs on each device, read off its compiled programs.

Nothing is allocated: weights, batches and devices are shapes alone, so a laptop with `libtpu`
answers for a TPU slice that it has never seen.
"""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.experimental import topologies

from rrft_jax.data.stages import model_folder
from rrft_jax.errors import UserError
from rrft_jax.models import Prompt, Qwen2VL, parameters
from rrft_jax.models import prompt as prompts
from rrft_jax.models.config import RELEASED, Qwen2VLConfig, VisionConfig
from rrft_jax.models.pretrained import read_config
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.training import grpo
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.state import TrainState


class Programs(NamedTuple):
    """A config's GRPO stage on a mesh, before anything is allocated or compiled.

    Arguments are `ShapeDtypeStruct`s with shardings. `update` and `score` are what
    `training/grpo.py` jits; `update(state, batch)`, `score(reference, prompt, completions)`.
    """

    model: Qwen2VL
    update: Any
    score: Any
    state: TrainState
    batch: grpo.GRPOBatch
    reference: dict


def bench_memory(config: ml_collections.ConfigDict, topology: str | None, text_tokens: int) -> dict:
    """Bytes a device of everything that GRPO holds, with pictures as large as the config allows.

    Args:
      config: of a run with a GRPO stage.
      topology: a TPU slice such as "v5e:2x4"; None is this machine.
      text_tokens: of each prompt, beside its picture's.

    Raises:
      UserError: no such slice, a config that does no GRPO, or a program that doesn't fit.
    """
    if "grpo" not in config.stages:
        raise UserError(f"memory: --config.stages={','.join(config.stages)}: expected grpo in it")
    devices = slice_devices(topology) if topology else jax.devices()
    mesh = make_mesh(**config.mesh, devices=devices)
    sizes = _sizes(config)
    patches, prompt_tokens = _largest_prompt(config, sizes.vision, text_tokens)
    one = programs(config, sizes, mesh, patches, prompt_tokens)
    temporaries = {
        "update": _compile(one.update, one.state, one.batch),
        "reference": _compile(one.score, one.reference, one.batch.prompt, one.batch.completions),
    }
    held = {
        "parameters": bytes_a_device(one.state.params),
        "optimizer": bytes_a_device(one.state.opt_state),
        "reference": bytes_a_device(one.reference) if config.grpo.beta else 0,
    }
    batch, group, length = one.batch.completions.shape
    return {
        "device": devices[0].device_kind,
        "mesh": dict(mesh.shape),
        "attention": one.model.kernels.form,
        "shape": {
            "prompts": batch,
            "prompt_tokens": prompt_tokens,
            "patches": patches,
            "samples": group,
            "new_tokens": length,
            "micro_batches": config.grpo.micro_batches,
        },
        "bytes_a_device": {
            **held,
            "caches": _caches(one.model, mesh, batch, prompt_tokens, group, length),
            "batch": bytes_a_device(one.batch),
            "temporaries": temporaries,
            "peak": sum(held.values()) + bytes_a_device(one.batch) + max(temporaries.values()),
        },
    }


def slice_devices(topology: str) -> Sequence[jax.Device]:
    """The devices of a TPU slice that isn't here, for `libtpu` to compile for.

    Raises:
      UserError: there's no `libtpu`, or it knows no such slice.
    """
    # It would ask the cloud where it is, complain, and let no second process near.
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--topology={topology}: expected a slice such as v5e:2x4, and libtpu installed "
            f"(pip install 'rrft_jax[tpu]'): {reason}"
        ) from error


_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def programs(
    config: ml_collections.ConfigDict,
    sizes: Qwen2VLConfig,
    mesh: jax.sharding.Mesh,
    patches: int,
    prompt_tokens: int,
) -> Programs:
    """The update and the reference's scores of a config, for one picture a prompt."""
    stage, settings = config.grpo, config.model
    model = Qwen2VL(
        sizes,
        dtype=jnp.dtype(settings.compute_dtype),
        attention=settings.attention,
        remat=settings.remat,
        logit_chunk=settings.logit_chunk,
        mesh=mesh,
    )
    optimizer = optimizers.make_optimizer(stage, 1)
    params = abstract_params(model, mesh, settings.dtype)
    state = states.abstract(params, optimizer, stage.freeze, mesh)
    shape = (stage.batch_size, stage.num_samples, config.sampling.max_new_tokens)
    return Programs(
        model,
        grpo.make_step(model, optimizer, stage, states.layout(state)),
        grpo.make_scorer(model, stage.micro_batches),
        state,
        _batch(mesh, model.config, shape, patches, prompt_tokens, reference=bool(stage.beta)),
        abstract_params(model, mesh, settings.compute_dtype),
    )


def abstract_params(model: Qwen2VL, mesh: jax.sharding.Mesh, dtype: Any) -> dict:
    """The parameters' shapes, and where they lie."""
    return jax.tree.map(
        lambda where, shape: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=where),
        parameters.parameter_shardings(model.config, mesh),
        parameters.parameter_shapes(model.config),
    )


def bytes_a_device(tree: Any) -> int:
    """Of arrays, or of shapes with shardings, on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _batch(
    mesh: jax.sharding.Mesh,
    model: Qwen2VLConfig,
    shape: tuple[int, int, int],
    patches: int,
    prompt_tokens: int,
    reference: bool,
) -> grpo.GRPOBatch:
    def array(letters: str, dtype: Any, **sizes: int) -> jax.ShapeDtypeStruct:
        sizes |= {"B": shape[0], "G": shape[1], "T": shape[2], "P": prompt_tokens, "S": patches}
        size = tuple(sizes[letter] for letter in letters)
        where = sharding.sharding(mesh, letters, size)
        return jax.ShapeDtypeStruct(size, dtype, sharding=where)

    dtypes = Prompt(
        tokens=jnp.int32,
        mask=bool,
        positions=jnp.int32,
        next_position=jnp.int32,
        patches=jnp.float32,
        patch_rows_cols=jnp.int32,
        patch_image=jnp.int32,
    )
    unnamed = Prompt(*[0] * 2, 3, 0, model.vision.patch_values, 2, 0)
    prompt = jax.tree.map(
        lambda letters, dtype, size: array(letters, dtype, **{".": size}),
        prompts.LETTERS,
        dtypes,
        unnamed,
    )
    return grpo.GRPOBatch(
        prompt=prompt,
        completions=array("BGT", jnp.int32),
        mask=array("BGT", bool),
        finished=array("BG", bool),
        advantages=array("BG", jnp.float32),
        sampler_log_probs=array("BGT", jnp.float32),
        reference_log_probs=array("BGT", jnp.float32) if reference else None,
    )


def _largest_prompt(
    config: ml_collections.ConfigDict, vision: VisionConfig, text_tokens: int
) -> tuple[int, int]:
    """(patches, tokens) of a prompt with one picture of as many pixels as the config allows."""
    visual = config.data.max_pixels // (vision.patch_size * vision.merge_size) ** 2
    return visual * vision.merge_size**2, visual + text_tokens


def _sizes(config: ml_collections.ConfigDict) -> Qwen2VLConfig:
    if config.model.name in RELEASED and not config.model.path:
        return RELEASED[config.model.name]
    return read_config(model_folder(config))[0]


def _caches(model: Qwen2VL, mesh: jax.sharding.Mesh, batch, prompt_tokens, group, length) -> int:
    """Keys and values of prompts and completions while all of them are sampled."""
    text = model.config.text
    shapes = {
        "LBPKC": (text.depth, batch, prompt_tokens, text.kv_heads, text.head_size),
        "LBGTKC": (text.depth, batch, group, length, text.kv_heads, text.head_size),
    }
    return (
        2
        * sum(
            math.prod(sharding.sharding(mesh, letters, shape).shard_shape(shape))
            for letters, shape in shapes.items()
        )
        * jnp.dtype(model.dtype).itemsize
    )


def _compile(program: Any, *arguments: Any) -> int:
    """Bytes that the compiled program needs beside its arguments and what is written over them."""
    try:
        memory = program.lower(*arguments).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"memory: it doesn't fit: {reason[:300]}") from error
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.temp_size_in_bytes + new
