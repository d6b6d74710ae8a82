"""`score` in bfloat16 on this device, beside `score` in float32 on the CPU.

The models have the widths and the parts of released ones, two layers in each tower, and random
weights.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rrft_jax.accelerator import scale
from rrft_jax.accelerator.findings import Finding, at_most, told
from rrft_jax.bench import workload as workloads
from rrft_jax.data.positions import patch_rows_cols
from rrft_jax.models import VLM, Prompt, VLMConfig

# What rounding to bfloat16 explains in such models, twice over.
LOG_PROBS, GRADIENT = 0.02, 0.1


def check() -> Iterator[Finding]:
    """Yield, for each model, the errors of log-probabilities and of their gradient."""
    sizes, cpu = scale.here(), jax.devices("cpu")[0]
    for name, config in sizes.scored.items():
        prompt, tokens = _inputs(config, sizes.scored_step)
        with jax.default_device(cpu):
            right = VLM(config, attention="xla")
            params = jax.jit(right.init)(jax.random.key(0))
            log_probs, gradient = jax.device_get(_score(right, params, prompt, tokens))
            params = jax.device_get(params)
        model = VLM(config, dtype=jnp.bfloat16)
        own, own_gradient = jax.device_get(_score(model, params, prompt, tokens))
        error = np.mean(np.abs(own - log_probs))
        yield told(f"{name}: mean log-probability", np.mean(log_probs))
        yield at_most(f"{name}: mean error of log-probabilities", error, LOG_PROBS)
        distance = _distance(own_gradient, gradient)
        yield at_most(f"{name}: relative error of the gradient", distance, GRADIENT)


@functools.partial(jax.jit, static_argnums=0)
def _score(model: VLM, params: dict, prompt: Prompt, tokens: jax.Array) -> tuple[jax.Array, dict]:
    """Return the log-probabilities [B,G,T], and the gradient of a weighted mean of them."""

    def mean(params: dict) -> tuple[jax.Array, jax.Array]:
        log_probs = model.score(params, prompt, tokens)
        weight = jnp.cos(jnp.arange(log_probs.size, dtype=jnp.float32)).reshape(log_probs.shape)
        return jnp.mean(weight * log_probs), log_probs

    gradient, log_probs = jax.grad(mean, has_aux=True)(params)
    return log_probs, gradient


def _distance(found: dict, right: dict) -> float:
    """Return the size of the difference of two gradients as a share of the second one's size."""
    squares = [
        (np.sum(np.square(a - b), dtype=np.float64), np.sum(np.square(b), dtype=np.float64))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right))
    ]
    of_difference, of_right = map(sum, zip(*squares))
    return float(np.sqrt(of_difference / of_right))


def _inputs(config: VLMConfig, step: workloads.Workload) -> tuple[Prompt, np.ndarray]:
    """Return prompts with a picture, and completions; the first prompt has padding."""
    step = dataclasses.replace(step, model=config)
    prompt = workloads.random_prompt(step)
    rows_cols = patch_rows_cols(step.rows, step.cols, config.vision.merge_size)
    mask = np.arange(step.prompt_tokens) >= np.where(np.arange(step.prompts) == 0, 3, 0)[:, None]
    tokens = np.random.default_rng(1).integers(
        10, min(600, config.text.vocab_size), (step.prompts, step.samples, step.new_tokens)
    )
    places = np.broadcast_to(rows_cols, prompt.patch_rows_cols.shape)
    return prompt.replace(patch_rows_cols=places, mask=mask), tokens.astype(np.int32)
