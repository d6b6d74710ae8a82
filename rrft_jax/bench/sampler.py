"""The speed of sampling: tokens a second, the cost of a long tail of lengths, bytes of a step."""

import math
import os
import statistics
import time

import jax
import numpy as np

from rrft_jax.bench import workload as workloads
from rrft_jax.models.config import TextConfig
from rrft_jax.parallel.devices import LIMITS
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import GenerationConfig, SamplingParams, generate


def bench_sampler(
    workload: workloads.Workload,
    checkpoint: str | None,
    sampling: SamplingParams,
    cache_chunk: int,
    repeats: int,
    seed: int,
) -> dict:
    """Time `generate` with forced lengths: medians in seconds after one warming run.

    Three runs take turns: one token (the prompts alone), all lengths equal to the mean, and a long
    tail of lengths. The decoding steps take the time of equal lengths less that of the prompts.
    The ratio of the long tail to equal lengths is a median over the turns, because a machine's
    speed changes between turns.

    Args:
      workload: the shapes; the mean length is `workload.new_tokens`.
      checkpoint: a Hugging Face folder; None takes random weights.
      sampling: temperature, top-k and top-p.
      cache_chunk: the tokens by which the cache grows.
      repeats: the number of measured turns.
      seed: the seed of the order of the lengths.
    """
    mesh = make_mesh()
    model, params, prompt = workloads.start(workload, checkpoint, mesh)
    mean, longest = workload.new_tokens, 4 * workload.new_tokens
    tail = long_tail(workload.prompts, workload.samples, mean, longest, seed)
    runs = {
        "prompts": np.ones_like(tail),
        "equal": np.full_like(tail, mean),
        "long_tail": tail,
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, lengths in runs.items():
            began = time.perf_counter()
            generation = GenerationConfig(
                num_generations=workload.samples,
                max_new_tokens=int(lengths.max()),
                stop_tokens=(),
                sampling=sampling,
                budget=lengths,
                cache_chunk=cache_chunk,
            )
            rollouts = generate(model, params, prompt, jax.random.key(repeat), generation)
            jax.block_until_ready(rollouts)
            if repeat:  # the first one compiles
                times[name].append(time.perf_counter() - began)
            assert int(rollouts.mask.sum()) == lengths.sum()
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [tail / equal for tail, equal in zip(times["long_tail"], times["equal"])]
    step = (medians["equal"] - medians["prompts"]) / (mean - 1)
    read = step_bytes(model.config.text, workload, model.dtype, mean / 2)
    device = jax.devices()[0].device_kind
    bandwidth = LIMITS[device].bandwidth if device in LIMITS else None
    return {
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "long_tail_to_equal": round(statistics.median(ratios), 2),
        "lengths": {"mean": round(float(tail.mean()), 1), "max": int(tail.max())},
        "tokens_per_second": round(workload.prompts * workload.samples * mean / medians["equal"]),
        "step_milliseconds": round(1e3 * step, 3),
        "step_megabytes": round(read / 1e6, 2),
        "gigabytes_per_second": round(read / step / 1e9, 2),
        "share_of_bandwidth": bandwidth and round(read / step / bandwidth, 3),
        "threads": len(os.sched_getaffinity(0)),
        "device": device,
    }


def long_tail(prompts: int, samples: int, mean: int, longest: int, seed: int) -> np.ndarray:
    """Return lengths [B,G]: shuffled quantiles of an exponential distribution, cut at `longest`.

    Lengths are distributed so if the chance to stop is the same at each token.
    """
    quantiles = -np.log1p(-(np.arange(prompts * samples) + 0.5) / (prompts * samples))

    def lengths(scale: float) -> np.ndarray:
        return np.clip(np.rint(scale * quantiles), 1, longest).astype(np.int32)

    low, high = 0.0, 10.0 * mean
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if lengths(middle).mean() < mean else (low, middle)
    return np.random.default_rng(seed).permutation(lengths(high)).reshape(prompts, samples)


def step_bytes(config: TextConfig, workload: workloads.Workload, dtype, own_tokens: float) -> float:
    """Return the bytes that a decoding step must read: weights, keys and values, each once."""
    c, size = config, np.dtype(dtype).itemsize
    heads = (c.heads + 2 * c.kv_heads) * c.head_size + c.heads * c.head_size
    layers = c.depth * c.width * (heads + 3 * c.mlp_width)
    rows = workload.prompts * workload.samples
    tokens = workload.prompts * workload.prompt_tokens + rows * own_tokens
    cache = c.depth * 2 * c.kv_heads * c.head_size * tokens
    return size * (math.prod((c.vocab_size, c.width)) + layers + cache)
