"""The times of the three parts of a GRPO step: sampling, reference, update."""

import os
import statistics
import time

import jax
import numpy as np

from rrft_jax.bench import workload as workloads
from rrft_jax.models import VLM
from rrft_jax.models.prompt import Prompt
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import GenerationConfig, Rollouts, generate
from rrft_jax.settings import GRPOSettings
from rrft_jax.training import grpo, objectives
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.loss import Minibatch, Scores


class Step:
    """A GRPO step in parts, one call each. No completion ends early."""

    def __init__(self, model: VLM, params: dict, samples: int, new_tokens: int, micro_batches: int):
        """Prepare the programs, without compiling them.

        Args:
          model: the policy.
          params: its parameters; the first update consumes them.
          samples: the completions per prompt, G.
          new_tokens: the tokens of a completion, T.
          micro_batches: the parts of a batch, in the reference and in the update.
        """
        self.model, mesh = model, make_mesh()
        self.settings = GRPOSettings(micro_batches=micro_batches)
        self.generation = GenerationConfig(
            num_generations=samples, max_new_tokens=new_tokens, stop_tokens=()
        )
        self.optimizer = optimizers.make_optimizer(self.settings, 1000)
        self.frozen = states.frozen_copy(model, params, "")
        self.state = states.create(params, self.optimizer, "", mesh)
        self.scorer = grpo.make_scorer(model, micro_batches)
        self.compiled_update: jax.stages.Compiled | None = None

    def sample(self, prompt: Prompt, number: int) -> Rollouts:
        """Return the completions of step `number`."""
        key = jax.random.key(number)
        rollouts = generate(self.model, self.state.params, prompt, key, self.generation)
        return jax.block_until_ready(rollouts)

    def reference(self, rollouts: Rollouts) -> jax.Array:
        """Return the log-probabilities [B,G,T] of completions under the first parameters."""
        scores = self.scorer(self.frozen, rollouts.prompt, rollouts.tokens)
        return jax.block_until_ready(scores)

    def update(
        self, rollouts: Rollouts, log_probs: jax.Array, advantages: np.ndarray
    ) -> dict[str, jax.Array]:
        """Learn from completions, and return the metrics. All batches must have one shape."""
        batch = Minibatch(rollouts.inputs(), Scores(reference=log_probs), advantages)
        if self.compiled_update is None:
            layout = states.layout(self.state)
            update = grpo.make_update(self.model, self.optimizer, self.settings, layout)
            self.compiled_update = update.lower(self.state, batch).compile()
        self.state, metrics = self.compiled_update(self.state, batch)
        return jax.block_until_ready((self.state, metrics))[1]

    def medians(self, prompt: Prompt, advantages: np.ndarray, repeats: int) -> dict[str, float]:
        """Return the median seconds of each part in `repeats` steps after a warming one."""
        times: dict[str, list[float]] = {"generate": [], "reference": [], "update": []}
        for repeat in range(repeats + 1):
            clock = [time.perf_counter()]
            rollouts = self.sample(prompt, repeat)
            clock.append(time.perf_counter())
            log_probs = self.reference(rollouts)
            clock.append(time.perf_counter())
            self.update(rollouts, log_probs, advantages)
            clock.append(time.perf_counter())
            if repeat:  # the first one compiles
                for values, seconds in zip(times.values(), np.diff(clock)):
                    values.append(float(seconds))
        return {name: statistics.median(values) for name, values in times.items()}


def random_advantages(shape: tuple[int, int]) -> np.ndarray:
    """Return advantages [B,G] of random rewards."""
    random = np.random.default_rng(0).random(shape)
    return np.asarray(objectives.group_std_advantages(random), np.float32)


def bench_grpo(workload: workloads.Workload, checkpoint: str | None, repeats: int) -> dict:
    """Time `repeats` GRPO steps on random prompts: medians in seconds after one warming run.

    Args:
      workload: the shapes of a step.
      checkpoint: a Hugging Face folder; None takes random weights.
      repeats: the number of measured steps.
    """
    model, params, prompt = workloads.start(workload, checkpoint, make_mesh())
    parts = workloads.micro_batches(workload.prompts)
    step = Step(model, params, workload.samples, workload.new_tokens, parts)
    advantages = random_advantages((workload.prompts, workload.samples))
    medians = step.medians(prompt, advantages, repeats)
    medians = {name: round(seconds, 3) for name, seconds in medians.items()}
    return {
        **medians,
        "step": round(sum(medians.values()), 3),
        "prompt_tokens": workload.prompt_tokens,
        "threads": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
