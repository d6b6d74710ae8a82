"""The three parts of a GRPO step: sampling, reference, update."""

import os
import statistics
import time

import jax
import ml_collections
import numpy as np

from rrft_jax.bench import workload as workloads
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import GenerationConfig, generate
from rrft_jax.training import grpo, objectives
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.loss import Minibatch, Scores

STEP = dict(
    learning_rate=1e-6,
    schedule="linear",
    warmup_steps=0,
    weight_decay=0.0,
    clip_norm=1.0,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    moment_dtype="float32",
    freeze="",
    micro_batches=1,
    mini_batches=1,
    aggregation="sequence",
    ratio="token",
    epsilon_low=0.2,
    epsilon_high=0.2,
    dual_clip=0.0,
    beta=0.04,
    kl="k3",
    kl_in="loss",
    entropy_bonus=0.0,
    mask_truncated=False,
    importance_sampling="none",
    importance_cap=2.0,
)


def bench_grpo(workload: workloads.Workload, checkpoint: str | None, repeats: int) -> dict:
    """Times `repeats` GRPO steps on random prompts: medians in seconds after one warming run."""
    mesh = make_mesh()
    model, params, prompt = workloads.start(workload, checkpoint, mesh)
    config = ml_collections.ConfigDict(STEP)
    optimizer = optimizers.make_optimizer(config, 1000)
    reference = states.frozen_copy(model, params, "")
    state = states.create(params, optimizer, "", mesh)
    score = grpo.make_scorer(model, 1)
    update = grpo.make_update(model, optimizer, config, states.layout(state))
    random = np.random.default_rng(0).random((workload.prompts, workload.samples))
    advantages = np.asarray(objectives.group_std_advantages(random), np.float32)
    generation = GenerationConfig(
        num_generations=workload.samples, max_new_tokens=workload.new_tokens, stop_tokens=()
    )
    times: dict[str, list[float]] = {"generate": [], "reference": [], "update": []}
    for repeat in range(repeats + 1):
        clock = [time.perf_counter()]
        rollouts = generate(model, state.params, prompt, jax.random.key(repeat), generation)
        jax.block_until_ready(rollouts)
        clock.append(time.perf_counter())
        log_probs = jax.block_until_ready(score(reference, prompt, rollouts.tokens))
        clock.append(time.perf_counter())
        batch = Minibatch(rollouts.inputs(), Scores(reference=log_probs), advantages)
        state, metrics = update(state, batch)
        jax.block_until_ready((state, metrics))
        clock.append(time.perf_counter())
        if repeat:  # the first one compiles
            for values, seconds in zip(times.values(), np.diff(clock)):
                values.append(float(seconds))
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    return {
        **medians,
        "step": round(sum(medians.values()), 3),
        "prompt_tokens": workload.prompt_tokens,
        "threads": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
