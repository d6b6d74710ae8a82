"""The time of the update, alone and beside an update with every prompt and picture repeated."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rrft_jax.bench import workload as workloads
from rrft_jax.bench.flops import score_flops
from rrft_jax.bench.workload import Workload
from rrft_jax.models import VLM
from rrft_jax.parallel.devices import LIMITS
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import GenerationConfig, generate
from rrft_jax.settings import Config, GRPOSettings, LoRASettings
from rrft_jax.training import grpo, loss, tuning
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.loss import Minibatch, Scores


def bench_update(workload: Workload, checkpoint: str | None, repeats: int) -> dict:
    """Return the median seconds of an update, its tokens a second, and the share of the peak.

    A prompt's tokens count once, whatever the number of its completions. The share is left out if
    the device's peak isn't known or the model isn't computed in 16 bits.
    """
    run, workload, dtype = start(workload, checkpoint)
    [seconds] = medians([run], repeats)
    flops = 3 * score_flops(workload)
    tokens = workload.prompts * (workload.prompt_tokens + workload.samples * workload.new_tokens)
    device = jax.devices()[0].device_kind
    result = {
        "update": round(seconds, 4),
        "tokens_per_second": round(tokens / seconds),
        "model_tflops_per_second": round(flops / seconds / 1e12, 6),
        "device": device,
    }
    if device in LIMITS and dtype.itemsize == 2:
        result["model_flops_utilisation"] = round(flops / seconds / LIMITS[device].flops, 3)
    return result


def bench_repeated(workload: Workload, checkpoint: str | None, repeats: int) -> dict:
    """Return the median seconds of the shared and the repeated update, and their ratio."""
    shared, workload, _ = start(workload, checkpoint)
    repeated, _, _ = start(workload, checkpoint, repeat=True)
    times = medians([shared, repeated], repeats)
    return {
        "shared": round(times[0], 4),
        "repeated": round(times[1], 4),
        "ratio": round(times[1] / times[0], 2),
        "device": jax.devices()[0].device_kind,
    }


def start(
    workload: Workload, checkpoint: str | None, repeat: bool = False, rank: int = 0
) -> tuple[Callable[[], dict], Workload, np.dtype]:
    """Make a function that runs one update and returns its metrics.

    Args:
      workload: the shapes of the update.
      checkpoint: a Hugging Face folder; None takes random weights.
      repeat: repeats every prompt and picture for each of its completions.
      rank: the rank of an adapter that is trained; 0 trains all weights.

    Returns:
      (the function, the workload with the model's sizes, the model's compute dtype).
    """
    mesh = make_mesh()
    model, params, prompt = workloads.start(workload, checkpoint, mesh)
    if rank:
        model, params = with_adapter(model, params, mesh, rank)
    workload = dataclasses.replace(workload, model=model.config)
    generation = GenerationConfig(
        num_generations=workload.samples, max_new_tokens=workload.new_tokens, stop_tokens=()
    )
    rollouts = generate(model, params, prompt, jax.random.key(0), generation).inputs()
    random = np.random.default_rng(0)
    batch = Minibatch(
        rollouts,
        Scores(reference=rollouts.rollout_log_probs),
        random.normal(size=rollouts.finished.shape).astype(np.float32),
    )
    if repeat:
        batch = _one_completion_each(batch)
    batch = jax.device_put(batch, mesh.devices.flat[0])
    settings = GRPOSettings(micro_batches=workloads.micro_batches(workload.prompts))
    optimizer = optimizers.make_optimizer(settings, 1000)
    base, trained = tuning.split(params)
    state = states.create(trained, optimizer, settings.freeze, mesh)
    step = grpo.make_update(model, optimizer, settings, states.layout(state))

    def run() -> dict:
        nonlocal state
        state, metrics = step(state, batch, base=base)
        return jax.block_until_ready((state, metrics))[1]

    return run, workload, np.dtype(model.dtype)


def with_adapter(model: VLM, params: dict, mesh: jax.sharding.Mesh, rank: int) -> tuple[VLM, dict]:
    """Return the model and its parameters with a fresh adapter of the decoder."""
    config = Config(lora=LoRASettings(rank=rank))
    return tuning.begin(config, dataclasses.replace(model, mesh=mesh), params)


def _one_completion_each(batch: Minibatch) -> Minibatch:
    """Repeat every prompt and its pictures for each completion: [B,G,...] -> [BG,1,...]."""
    group = batch.rollouts.tokens.shape[1]

    def put(axes: str, x: jax.Array) -> np.ndarray:
        if "G" in axes:
            return np.reshape(x, (-1, 1, *x.shape[2:]))
        return np.repeat(x, group, axis=axes.index("B"))

    return jax.tree.map(put, loss.axes(batch), batch)


def medians(runs: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Return the median seconds of each function, run in turns after one warming run."""
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, seconds in zip(runs, times):
            started = time.perf_counter()
            run()
            if repeat:  # the first one compiles
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in times]
