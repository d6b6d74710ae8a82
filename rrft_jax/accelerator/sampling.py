"""The speed of sampling: a decoding step's bytes as a share of the memory's bandwidth."""

from collections.abc import Iterator

import jax
import numpy as np

from rrft_jax.accelerator import scale, subject
from rrft_jax.accelerator.findings import Finding, at_least, told
from rrft_jax.bench.sampler import step_bytes
from rrft_jax.bench.update import medians
from rrft_jax.plan.programs import STOP_TOKENS
from rrft_jax.rollout import GenerationConfig, Rollouts, SamplingParams, generate

PROGRAMS = ("prefill", "layer", "ends", "grow", "decode")
PRESENT = ("parameters", "batch", "prompts' cache", "caches", "sampler's weights")
SHARE = 0.6  # of the bandwidth that a decoding step should reach


def check() -> Iterator[Finding]:
    """Yield the times of sampling, its share of the bandwidth, its memory, and the plan's bound."""
    here, repeats = subject.make(), scale.here().repeats
    plan = here.plan(PROGRAMS, PRESENT)
    step, limits, chosen = here.step, here.limits, here.config.sampling
    params, prompt = here.params(), here.prompt()

    def sample(tokens: int) -> Rollouts:
        config = GenerationConfig(
            max_new_tokens=step.new_tokens,
            stop_tokens=STOP_TOKENS,
            num_generations=step.samples,
            sampling=SamplingParams(chosen.temperature, chosen.top_k, chosen.top_p),
            cache_chunk=chosen.cache_chunk,
            budget=np.full((step.prompts, step.samples), tokens, np.int32),
        )
        rollouts = generate(here.model, params, prompt, jax.random.key(0), config)
        return jax.block_until_ready(rollouts)

    one, every = medians([lambda: sample(1), lambda: sample(step.new_tokens)], repeats)
    token = (every - one) / (step.new_tokens - 1)
    read = step_bytes(step.model.text, step, here.model.dtype, step.new_tokens / 2)
    tokens = step.prompts * step.samples * step.new_tokens
    yield told("completions, seconds", every)
    yield told("their first tokens, seconds", one)
    yield told("tokens a second", tokens / every)
    yield told("a decoding step, milliseconds", 1e3 * token)
    yield told("gigabytes that a decoding step reads at least", read / 1e9)
    share = limits and read / token / limits.bandwidth
    yield at_least("share of the memory's bandwidth", share, SHARE)
    if limits:
        bound = plan.seconds("grpo")["sample"]
        yield told("the plan's least seconds", bound)
        yield at_least("seconds to the plan's least", every / bound, 1.0)
    yield from here.memory(plan, PRESENT)
