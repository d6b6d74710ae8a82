"""The times of the three parts of a GRPO step: sampling, reference, update."""

import os
import statistics
import time

import jax
import numpy as np

from rrft_jax.bench import workload as workloads
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import GenerationConfig, generate
from rrft_jax.settings import GRPOSettings
from rrft_jax.training import grpo, objectives
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.loss import Minibatch, Scores

STEP = GRPOSettings(micro_batches=1)


def bench_grpo(workload: workloads.Workload, checkpoint: str | None, repeats: int) -> dict:
    """Time `repeats` GRPO steps on random prompts: medians in seconds after one warming run.

    Args:
      workload: the shapes of a step.
      checkpoint: a Hugging Face folder; None takes random weights.
      repeats: the number of measured steps.
    """
    mesh = make_mesh()
    model, params, prompt = workloads.start(workload, checkpoint, mesh)
    optimizer = optimizers.make_optimizer(STEP, 1000)
    reference = states.frozen_copy(model, params, "")
    state = states.create(params, optimizer, "", mesh)
    score = grpo.make_scorer(model, 1)
    update = grpo.make_update(model, optimizer, STEP, states.layout(state))
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
