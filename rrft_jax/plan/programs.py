"""The programs of a config on a mesh, made from shapes alone: nothing is allocated.

They are the functions that a run jits, with the layouts, dtypes and donated buffers of a run.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax.data.shapes import Shape
from rrft_jax.models import VLM, Prompt, table, vlm
from rrft_jax.models import prompt as prompts
from rrft_jax.models.attention import KeyValues
from rrft_jax.models.config import VLMConfig
from rrft_jax.parallel import sharding
from rrft_jax.rollout import SamplingParams, generation, rollouts, sampler
from rrft_jax.rollout.sampling import threshold
from rrft_jax.settings import Config
from rrft_jax.training import grpo, sft, tuning
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.loss import Minibatch, Scores

STOP_TOKENS = (151643, 151645)  # of the released models; only their number matters


@dataclasses.dataclass
class Program:
    """One program of a run.

    Attributes:
      name: the name of its part of a step, such as "prefill".
      lower: a function that lowers it for the mesh of its arguments.
      arguments: its arguments, as trees of shapes, by their role.
      held: other arrays that lie on the devices meanwhile, as trees of shapes, by their role.
      times: the number of times that it runs in a step.
      branch: the branch that its `jax.lax.switch` takes, if it has one.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    arguments: dict[str, Any]
    held: dict[str, Any]
    times: int = 1
    branch: int | None = None

    @functools.cached_property
    def lowered(self) -> jax.stages.Lowered:
        """The lowered program."""
        return self.lower()

    @functools.cached_property
    def compiled(self) -> jax.stages.Compiled:
        """The compiled program.

        Raises:
          jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED if the program doesn't fit the device.
        """
        try:
            return self.lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            # On a GPU XLA tries the tiles of Triton's products, and here it takes one without a
            # trial. Where these tiles don't suit the shapes, the products are cuBLAS's.
            if "output tile sizes" not in str(error):
                raise
            return self.lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})


def programs(
    config: Config, sizes: VLMConfig, mesh: jax.sharding.Mesh, shape: Shape
) -> Iterator[Program]:
    """Yield the programs of the config's stages, in the order in which a run needs them."""
    model = make_model(config, sizes, mesh)
    for stage in config.stages:
        yield from {"sft": _sft, "grpo": _grpo}[stage](config, model, shape)


def make_model(config: Config, sizes: VLMConfig, mesh: jax.sharding.Mesh) -> VLM:
    """Return the model of a run, without weights."""
    return VLM(
        sizes,
        dtype=jnp.dtype(config.model.compute_dtype),
        param_dtype=jnp.dtype(tuning.dtype(config)),
        attention=config.model.attention,
        remat=config.model.remat,
        logit_chunk=config.model.logit_chunk,
        lora=tuning.lora(config.lora, sizes),
        mesh=mesh,
    )


def _sft(config: Config, model: VLM, shape: Shape) -> Iterator[Program]:
    stage = config.sft
    optimizer = optimizers.make_optimizer(stage, 1)
    base, state = abstract_state(config, model, "sft")
    array = functools.partial(
        _array, model.mesh, sizes={"B": stage.batch_size, "G": 1, "T": shape.target}
    )
    prompt = abstract_prompt(model, stage.batch_size, shape)
    batch = sft.SFTBatch(prompt, array("BGT", jnp.int32), array("BGT", bool))
    step = sft.make_step(model, optimizer, stage.freeze, stage.micro_batches, states.layout(state))
    yield Program(
        "sft",
        lambda: step.lower(state, batch, base),
        {"parameters": {**base, **state.params}, "optimizer": state.opt_state, "batch": batch},
        {"next batch": batch},
    )


def _grpo(config: Config, model: VLM, shape: Shape) -> Iterator[Program]:
    stage = config.grpo
    optimizer = optimizers.make_optimizer(stage, 1)
    base, state = abstract_state(config, model, "grpo")
    params = {**base, **state.params}
    reference = abstract_reference(config, model)
    prompt = abstract_prompt(model, stage.batch_size, shape)
    group, length = stage.num_generations, config.sampling.max_new_tokens
    inputs = rollouts.abstract(prompt, model.mesh, group, length)
    copied = {name: part for name, part in (reference or {}).items() if name not in base}
    frozen = {"reference": copied, "next batch": prompt}

    held = {"optimizer": state.opt_state, **frozen}
    yield from sampling(config, model, params, prompt, held)
    updates = stage.num_iterations * stage.mini_batches
    old = updates > 1 or (reference is not None and stage.kl_in == "reward")
    score = grpo.make_scorer(model, stage.mini_batches * stage.micro_batches)
    if old:
        yield Program(
            "old",
            lambda: score.lower(params, prompt, inputs.tokens),
            {"parameters": params, "batch": (prompt, inputs.tokens)},
            held,
        )
    if reference:
        yield Program(
            "reference",
            lambda: score.lower(reference, prompt, inputs.tokens),
            {"reference": reference, "batch": (prompt, inputs.tokens)},
            {"parameters": state.params, "optimizer": state.opt_state, "next batch": prompt},
        )
    log_probs = inputs.rollout_log_probs
    batch = Minibatch(
        inputs,
        Scores(old=log_probs if old else None, reference=log_probs if reference else None),
        advantages=_array(model.mesh, "BG", jnp.float32, {"B": stage.batch_size, "G": group}),
    )
    update = grpo.make_update(model, optimizer, stage, states.layout(state))
    yield Program(
        "update",
        lambda: update.lower(state, batch, base=base),
        {"parameters": params, "optimizer": state.opt_state, "batch": batch},
        frozen,
        times=updates,
    )


def sampling(
    config: Config,
    model: VLM,
    params: dict,
    prompt: Prompt,
    held: dict[str, Any],
) -> Iterator[Program]:
    """Yield the sampler's programs: prefill, layer, ends, grow, decode (in its longest cache)."""
    batch, length = len(prompt.tokens), config.sampling.max_new_tokens
    lengths = generation.cache_lengths(config.sampling.cache_chunk, length)
    draws = sampler.Draws(
        key=jax.eval_shape(lambda: jax.random.key(0)),
        first_row=np.int32(0),
        budget=jax.ShapeDtypeStruct((batch, config.grpo.num_generations), np.int32),
    )
    shards = sharding.num_shards(model.mesh, "B", batch)
    fixed = sampler.Fixed(model, length, STOP_TOKENS, pad_token=0, shards=shards)
    prefill = Program(
        "prefill",
        lambda: sampler.begin.lower(fixed, params, prompt, draws, lengths[0]),
        {"parameters": params, "batch": prompt},
        held,
    )
    yield prefill
    prompts, rows = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        prefill.lowered.out_info,
        prefill.compiled.output_shardings,
    )
    held = {"batch": prompt, "prompts' cache": prompts, **held}
    yield from _decoding_weights(model, params, {"caches": rows, **held})
    held = {"parameters": params, **held}
    weights = sampler_weights(model)

    def longer(length: int) -> Any:
        cache = tuple(
            KeyValues(
                keys.update(shape=(*keys.shape[:3], length)),
                values.update(shape=(*values.shape[:2], length, values.shape[3])),
            )
            for keys, values in rows.cache
        )
        return rows.replace(cache=cache)

    if len(lengths) > 1:
        before = longer(lengths[-2])
        yield Program(
            "grow",
            lambda: sampler.grow.lower(model, before, length),
            {"caches": before},
            {"sampler's weights": weights, **held},
        )
    del held["prompts' cache"]
    rows, chosen = longer(length), config.sampling
    choice = generation.traced(SamplingParams(chosen.temperature, chosen.top_k, chosen.top_p))
    yield Program(
        "decode",
        lambda: sampler.advance.lower(fixed, weights, prompts, rows, choice, np.int32(0)),
        {"sampler's weights": weights, "caches": (prompts, rows)},
        held,
        branch=int(threshold(choice)),
    )


def _decoding_weights(model: VLM, params: dict, held: dict[str, Any]) -> Iterator[Program]:
    """Yield the programs that gather the sampler's weights: the layers, then all others."""
    ends, weights = dict(params["language"]), sampler_weights(model)["language"]
    layers, gathered = ends.pop("layers"), weights.pop("layers")
    adapters = params.get("adapter", {}).get("language", {}).get("layers", {})
    index = jax.ShapeDtypeStruct((), np.int32)
    yield Program(
        "layer",
        lambda: vlm.decoding_layer.lower(model, layers, adapters, index),
        {"parameters": (layers, adapters)},
        {"sampler's weights": gathered[1:], "other parameters": (ends, params["vision"]), **held},
        times=len(gathered),
    )
    yield Program(
        "ends",
        lambda: vlm.decoding_ends.lower(model, ends),
        {"parameters": ends},
        {"sampler's weights": gathered, "other parameters": (layers, params["vision"]), **held},
    )


def abstract_state(config: Config, model: VLM, stage: str) -> tuple[dict, states.TrainState]:
    """Return the frozen base of a stage, and its state, as shapes with shardings."""
    optimizer = optimizers.make_optimizer(config.stage(stage), 1)
    base, trained = tuning.abstract(config, model)
    return base, states.abstract(trained, optimizer, config.stage(stage).freeze, model.mesh)


def abstract_reference(config: Config, model: VLM) -> dict | None:
    """Return the frozen policy of GRPO's penalty as shapes; None if there is no penalty."""
    if not config.grpo.beta:
        return None
    base, trained = tuning.abstract(config, model)
    if not base:
        return states.abstract_copy(model, trained, config.grpo.reference_dtype)
    return {**base, **trained} if "sft" in config.stages else base  # a fresh adapter is left out


def abstract_prompt(model: VLM, batch: int, shape: Shape) -> Prompt:
    """Return a batch of prompts as shapes with shardings."""
    dtypes = Prompt(
        tokens=jnp.int32,
        mask=bool,
        positions=jnp.int32,
        next_position=jnp.int32,
        patches=jnp.float32,
        patch_rows_cols=jnp.int32,
        patch_image=jnp.int32,
    )
    unnamed = Prompt(*[0] * 2, 3, 0, model.config.vision.patch_values, 2, 0)  # the size of "."
    return jax.tree.map(
        lambda axes, dtype, size: _array(
            model.mesh,
            axes,
            dtype,
            {"B": batch, "P": shape.prompt, "S": shape.patches, ".": size},
        ),
        prompts.AXES,
        dtypes,
        unnamed,
    )


def sampler_weights(model: VLM) -> dict:
    """Return the result of `VLM.decoding_weights` as shapes with shardings."""

    def gathered(axes: str, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        where = sharding.sharding(model.mesh, axes.replace("D", "."), shape)
        return jax.ShapeDtypeStruct(shape, model.dtype, sharding=where)

    axes = table.parameter_axes(model.config)["language"]
    shapes = table.parameter_shapes(model.config)["language"]
    layer = jax.tree.map(
        lambda axes, shape: gathered(axes.removeprefix("L"), shape[1:]),
        axes.pop("layers"),
        shapes.pop("layers"),
    )
    ends = jax.tree.map(gathered, axes, shapes)
    return {"language": {**ends, "layers": model.config.text.depth * [layer]}}


def sampler_bytes(config: Config, model: VLM, shape: Shape) -> int:
    """Return the bytes a device of the sampler's weights, and of all its keys and values."""
    text, batch, group = model.config.text, config.grpo.batch_size, config.grpo.num_generations
    sizes = {
        "L": text.depth, "B": batch, "R": batch * group, "K": text.kv_heads, "C": text.head_size,
        "P": shape.prompt, "T": config.sampling.max_new_tokens,
    }  # fmt: skip
    caches = [_array(model.mesh, axes, model.dtype, sizes) for axes in ("LBKPC", "LRKTC")]
    return bytes_a_device([sampler_weights(model), 2 * caches])


def least_bytes(config: Config, model: VLM, stage: str, shape: Shape) -> dict[str, dict[str, int]]:
    """Return part of a step -> role -> bytes a device that are needed whatever the compiler does.

    Args:
      config: the config of a run.
      model: the model, with its mesh.
      stage: a stage of the config.
      shape: the shape of its batches.
    """
    base, state = abstract_state(config, model, stage)
    trained, _ = states.split(state.params, config.stage(stage).freeze)
    held = {"parameters": {**base, **state.params}, "optimizer": state.opt_state}
    if stage == "grpo":
        reference = abstract_reference(config, model) or {}
        held["reference"] = {name: part for name, part in reference.items() if name not in base}
    held = {role: bytes_a_device(tree) for role, tree in held.items()}
    parts = {}
    if stage == "grpo":
        parts["sampling"] = {**held, "sampler": sampler_bytes(config, model, shape)}
    parts["update"] = {
        **held,
        "gradients": bytes_a_device(trained),  # each is as large as its parameter
        "inputs of layers": kept_bytes(config, model, stage, shape),
    }
    return parts


def kept_bytes(config: Config, model: VLM, stage: str, shape: Shape) -> int:
    """Return the bytes a device that a backward pass keeps at least: the layers' inputs.

    A device holds these inputs of at least one prompt with its completions or its target.
    """
    text, own = model.config.text, shape.target
    if stage == "grpo":
        own = config.grpo.num_generations * config.sampling.max_new_tokens
    tokens = shape.prompt + own
    return text.depth * tokens * text.width * np.dtype(model.dtype).itemsize


def bytes_a_device(tree: Any) -> int:
    """Return the bytes on one device of arrays, or of shapes with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _array(mesh: jax.sharding.Mesh, axes: str, dtype: Any, sizes: dict[str, int]):
    shape = tuple(sizes[axis] for axis in axes)
    where = sharding.sharding(mesh, axes, shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)
