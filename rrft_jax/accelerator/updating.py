"""The speed of the reference and of the update: model FLOPs utilisation."""

from collections.abc import Iterator

import jax
import numpy as np

from rrft_jax.accelerator import scale, subject
from rrft_jax.accelerator.findings import Finding, at_least, same, told
from rrft_jax.bench.flops import score_flops
from rrft_jax.bench.update import medians
from rrft_jax.parallel import sharding
from rrft_jax.training import grpo
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.loss import Minibatch, Scores

PROGRAMS = ("reference", "update")
PRESENT = ("parameters", "optimizer", "reference", "batch")
UTILISATION = 0.45  # that the update should reach


def check() -> Iterator[Finding]:
    """Yield the times of both, the update's utilisation, their memory, and the plan's bounds."""
    here, repeats = subject.make(), scale.here().repeats
    plan = here.plan(PROGRAMS, PRESENT)
    stage, model, limits = here.config.grpo, here.model, here.limits
    params, rollouts = here.params(), here.rollouts()
    optimizer = optimizers.make_optimizer(stage, 1)  # as the plan, so one compilation serves both
    reference = states.frozen_copy(model, params, stage.reference_dtype)
    state = states.create(params, optimizer, stage.freeze, here.mesh)
    del params  # the update consumes them
    score = grpo.make_scorer(model, stage.mini_batches * stage.micro_batches)
    update = grpo.make_update(model, optimizer, stage, states.layout(state))
    advantages = np.random.default_rng(0).normal(size=rollouts.finished.shape)
    batch = Minibatch(
        rollouts,
        Scores(reference=score(reference, rollouts.prompt, rollouts.tokens)),
        sharding.shard(here.mesh, advantages.astype(np.float32), "BG"),
    )
    metrics = {}

    def run_score() -> jax.Array:
        return jax.block_until_ready(score(reference, rollouts.prompt, rollouts.tokens))

    def run_update() -> None:
        nonlocal state, metrics
        state, metrics = jax.block_until_ready(update(state, batch, base={}))

    of_score, of_update = medians([run_score, run_update], repeats)
    flops = score_flops(here.step)
    yield same("weights are finite after it", str(bool(metrics["finite_weights"])), "True")
    yield told("reference, seconds", of_score)
    yield told("update, seconds", of_update)
    yield told("10^12 operations of the update", 3 * flops / 1e12)
    if limits:
        yield told("reference, share of the peak", flops / of_score / limits.flops)
    utilisation = limits and 3 * flops / of_update / limits.flops
    yield at_least("update, model FLOPs utilisation", utilisation, UTILISATION)
    if limits:
        for name, seconds in (("reference", of_score), ("update", of_update)):
            bound = plan.seconds("grpo")[name]
            yield told(f"{name}, the plan's least seconds", bound)
            yield at_least(f"{name}, seconds to the plan's least", seconds / bound, 1.0)
    yield from here.memory(plan, PRESENT)
