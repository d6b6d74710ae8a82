"""Group relative policy optimization: one step, and the jitted programs that it runs.

GRPO is from DeepSeekMath (https://arxiv.org/abs/2402.03300). The loss is in `loss.py`, its terms
are in `objectives.py`, and the completions come from `rollout/generation.py`.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from rrft_jax import rewards as reward_functions
from rrft_jax.data import Batch, Processor
from rrft_jax.models import prompt as prompts
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM
from rrft_jax.monitoring import compilations, waiting
from rrft_jax.monitoring.stopwatch import Stopwatch
from rrft_jax.parallel import ahead, distributed, sharding
from rrft_jax.parallel.ahead import Ahead
from rrft_jax.rollout import GenerationConfig, Rollouts, SamplingParams, generate
from rrft_jax.rollout import rollouts as rollout_data
from rrft_jax.rollout.lookahead import Lookahead
from rrft_jax.settings import Config, GRPOSettings
from rrft_jax.training import objectives, rewarding, tuning
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.failing import FailingRewards
from rrft_jax.training.loss import Minibatch, Scores, axes, completion_kl, loss, weigh
from rrft_jax.training.state import TrainState

SAMPLING_STREAM = 1  # stream of random keys; evaluation uses another one

Batches = Iterator[tuple[Batch, Prompt]]  # prompts on the host, and the same prompts on the mesh


class GRPO:
    """The stage "grpo": its steps, and all that they need besides the state and the data."""

    stage = "grpo"

    def __init__(self, config: Config, model: VLM, processor: Processor, params: dict, steps: int):
        """Prepare the stage.

        Args:
          config: the run's config.
          model: the policy.
          processor: the processor of the policy's checkpoint.
          params: the parameters to start from; the first step consumes those that are trained. A
            copy of these is in the frozen reference of the penalty, if `config.grpo.beta` isn't 0.
          steps: the number of steps of the stage. Each step samples a batch, or more if groups are
            to be replaced, and makes `config.grpo.num_iterations` x `config.grpo.mini_batches`
            updates.
        """
        self.config = section = config.grpo
        self.model, self.mesh, self.processor = model, model.mesh, processor
        sampling = config.sampling
        self.updates = section.num_iterations * section.mini_batches
        self.reference = None
        if section.beta:
            self.reference = tuning.reference(model, params, section.reference_dtype)
        optimizer = optimizers.make_optimizer(section, steps * self.updates)
        self.learning_rate = jax.jit(optimizers.learning_rate(section, steps * self.updates))
        self.base, trained = tuning.split(params)
        self.state = states.create(trained, optimizer, section.freeze, self.mesh)
        layout = states.layout(self.state)
        longest = sampling.max_new_tokens
        self.update = make_update(model, optimizer, section, layout, config.seed, longest)
        self.scorer = make_scorer(model, section.mini_batches * section.micro_batches)
        self.key = jax.random.fold_in(jax.random.key(config.seed), SAMPLING_STREAM)
        # On a GPU XLA times kernels while it compiles, which a running program would disturb. On
        # CPUs the sampler needs the cores, and a batch needs few of the sampler's programs.
        platform = jax.default_backend()
        self.ahead = None if platform == "gpu" else Ahead()
        lookahead = Lookahead(self.ahead) if platform == "tpu" else None
        self.generation = GenerationConfig(
            num_generations=section.num_generations,
            max_new_tokens=sampling.max_new_tokens,
            stop_tokens=processor.stop_tokens,
            sampling=SamplingParams(sampling.temperature, sampling.top_k, sampling.top_p),
            pad_token=processor.pad_token,
            cache_chunk=sampling.cache_chunk,
            lookahead=lookahead,
        )
        self.terms = reward_functions.read_terms(section.rewards)
        self.failing = FailingRewards(section.reward_seconds)
        self.rollouts_every = config.rollouts_every

    def place(self, batch: Batch) -> Prompt:
        """Return the prompts of a batch, sharded over the mesh."""
        return sharding.shard(self.mesh, batch.prompt, prompts.AXES)

    def step(
        self, state: TrainState, batches: Batches, number: int
    ) -> tuple[TrainState, dict, list[dict[str, Any]]]:
        """Run one step: sample completions, reward them, compute advantages, update the policy.

        Args:
          state: the state before the step, which is consumed.
          batches: an iterator, from which the step takes as many batches as it needs.
          number: the number of the step, from 1.

        Returns:
          (the state after, metrics, some of the completions for `rollouts.jsonl`). Most steps show
          none: see `config.rollouts_every`.
        """
        config, clock = self.config, Stopwatch()
        params = {**self.base, **state.params}
        batch, prompt = next(batches)
        self.compile_ahead(state, prompt)
        sampled = self.sample(params, prompt, number, 0, clock)
        if not config.dynamic_sampling:  # the devices score while the host decodes and rewards
            sampled = sampled.cut(max(distributed.gather(sampled.longest)))
            inputs, scores = self.score(params, sampled, prompt, clock)
        first = rollouts = self.reward(batch, sampled, number, clock)
        more = self._more(params, batches, number, clock)
        rollouts, replaced, rounds = rewarding.refill(
            rollouts, more, self.processor, config.dynamic_sampling
        )
        if config.dynamic_sampling:
            rollouts = rollouts.cut(rollouts.longest)
            local = rollouts.local()
            if replaced:
                prompt = sharding.shard(self.mesh, local.prompt, prompts.AXES)
            inputs, scores = self.score(params, local, prompt, clock)
        with clock("update"):
            self._finish_compiling("update", inputs)
            advantages = self.advantages(state, rollouts, inputs, scores)
            local_advantages = advantages[list(rollouts.row_ids)]
            learnt = Minibatch(inputs, scores, sharding.shard(self.mesh, local_advantages, "BG"))
            metrics = []
            for part in config.num_iterations * list(range(config.mini_batches)):
                state, values = self.update(state, learnt, part, self.base)
                metrics.append(values)
            metrics = jax.device_get(metrics)
        # Metrics describe the first rollouts only: replacements were selected, so they are biased.
        return (
            state,
            {
                **jax.tree.map(lambda *x: np.mean(x), *metrics),
                "skipped_updates": sum(values["skipped_updates"] for values in metrics),
                **rewarding.metrics(first),
                **batch.padding,
                "replaced_groups": replaced,
                "sampled_batches": 1 + rounds,
                "reward_failures": self.failing.take_count(),
                "learning_rate": self.learning_rate((number - 1) * self.updates),
                "tokens_per_second": rollouts.number_of_tokens / clock.total,
                **clock.seconds,
            },
            self.shown(rollouts, advantages, scores) if self._shows(number) else [],
        )

    def compile_ahead(self, state: TrainState, prompt: Prompt) -> None:
        """Begin to compile the scores and the update of prompts of a new shape, and return.

        Meanwhile the sampler works. They are the programs for completions of full length. Those
        for shorter ones are compiled when they are needed, and those for a batch whose groups are
        replaced, if it gets another shape.
        """
        if self.ahead is None:
            return
        group, length = self.config.num_generations, self.generation.max_new_tokens
        if self.ahead.knows(self._job("update", prompt, length)):
            return
        state, base, reference = ahead.shapes((state, self.base, self.reference))
        inputs = rollout_data.abstract(ahead.shapes(prompt), self.mesh, group, length)

        def score() -> Scores:
            old = self.updates > 1 or self._penalized
            weights = {**base, **state.params} if old else None, reference
            return Scores(
                *(w and ahead.result(self.scorer, w, inputs.prompt, inputs.tokens) for w in weights)
            )

        def update() -> None:
            rows = inputs.tokens.shape[:2]
            where = sharding.sharding(self.mesh, "BG", rows)
            advantages = jax.ShapeDtypeStruct(rows, np.float32, sharding=where)
            learnt = Minibatch(inputs, score(), advantages)
            self.update.lower(state, learnt, 0, base).compile()

        for name, compile in (("score", score), ("update", update)):
            self.ahead.begin(self._job(name, prompt, length), compile)

    def _job(self, name: str, prompt: Prompt, length: int) -> Hashable:
        """Return the name of a compilation for prompts of a shape and completions of a length."""
        return name, prompt.patches.shape, prompt.tokens.shape, length

    def _finish_compiling(self, name: str, inputs: Rollouts) -> None:
        """Wait for a program if it is being compiled for such rollouts."""
        if not self.ahead:
            return
        prompt, length = inputs.prompt, inputs.tokens.shape[-1]
        words = compilations.WORDS[{"update": "grpo_step"}.get(name, name)]
        self.ahead.finish(self._job(name, prompt, length), words)
        longest = self.generation.max_new_tokens
        if length < longest:  # perhaps no batch will ever have the full length
            self.ahead.give_up(self._job("update", prompt, longest))

    def sample(
        self, params: dict, prompt: Prompt, number: int, before: int, clock: Stopwatch
    ) -> Rollouts:
        """Return this process's completions of a batch.

        `before` is the number of batches that the step has sampled before this one.
        """
        with clock("sample"):
            key = jax.random.fold_in(self.key, number)
            first_row = before * len(prompt.tokens)
            rollouts = generate(self.model, params, prompt, key, self.generation, first_row)
            return rollouts.inputs().fetch()

    def reward(self, batch: Batch, sampled: Rollouts, number: int, clock: Stopwatch) -> Rollouts:
        """Return the rollouts of all processes, decoded and rewarded.

        Raises:
          UserError: a reward failed on all completions of the first batch that it scored.
        """
        with clock("rewards"):
            limit = reward_functions.guard.limit(self.config.reward_seconds)
            with limit, waiting("scoring completions by the rewards"):
                rollouts = rewarding.reward(
                    sampled, batch, self.terms, self.processor, number, self._shows(number)
                )
            self.failing.check(rollouts)
            return rollouts

    def score(
        self, params: dict, sampled: Rollouts, prompt: Prompt, clock: Stopwatch
    ) -> tuple[Rollouts, Scores]:
        """Return the rollouts on the mesh and the loss's scores; do not wait for the devices."""
        with clock("rewards"):
            inputs = sampled.shard(self.mesh, prompt)
            self._finish_compiling("score", inputs)
            old = reference = None
            if self.updates > 1 or self._penalized:
                with jax.profiler.TraceAnnotation("old"):
                    old = self.scorer(params, prompt, inputs.tokens)
            if self.reference is not None:
                with jax.profiler.TraceAnnotation("reference"):
                    reference = self.scorer(self.reference, prompt, inputs.tokens)
            return inputs, Scores(old, reference)

    def advantages(
        self, state: TrainState, rollouts: Rollouts, inputs: Rollouts, scores: Scores
    ) -> np.ndarray:
        """Return the advantages [B,G] of all processes, by `config.advantages`.

        If the KL penalty is a part of the rewards, it is subtracted from them first.

        Args:
          state: the current state; its `moved` tells whether the policy is still the reference.
          rollouts: the rewarded rollouts of all processes.
          inputs: this process's rollouts on the mesh.
          scores: the log-probabilities of the completions in `inputs`.
        """
        rewards = rollouts.rewards.total
        # Until an update moves it, the policy is the reference: a difference is only rounding.
        if self._penalized and state.moved:
            kl = completion_kl(self.config.kl, inputs.mask, scores)
            rewards = rewards - self.config.beta * self._of_all(kl, "BG", rollouts)
        return objectives.ADVANTAGES[self.config.advantages](rewards).astype(np.float32)

    def shown(
        self, rollouts: Rollouts, advantages: np.ndarray, scores: Scores
    ) -> list[dict[str, Any]]:
        """Return some of the completions of all processes, for `rollouts.jsonl`."""
        reference = scores.reference
        if reference is not None:
            reference = self._of_all(reference, "BGT", rollouts)
        return rewarding.shown(rewarding.Learnt(rollouts, advantages, reference), self.processor)

    def _shows(self, number: int) -> bool:
        """Return whether a step keeps some of its completions for people."""
        return (number - 1) % self.rollouts_every == 0

    def _of_all(self, values: jax.Array, axes: str, rollouts: Rollouts) -> np.ndarray:
        """Return an array of this process's rows on the mesh as rows of all processes."""
        local = sharding.fetch(sharding.constrain(values, axes, self.mesh))
        return np.stack(distributed.gather_rows(rollouts.row_ids, local))

    @property
    def _penalized(self) -> bool:
        """True if the KL penalty is a part of the rewards."""
        return self.reference is not None and self.config.kl_in == "reward"

    def _more(
        self, params: dict, batches: Batches, number: int, clock: Stopwatch
    ) -> Iterator[Rollouts]:
        """Yield rewarded rollouts of fresh prompts without end; sample each batch on demand."""
        for before in itertools.count(1):
            batch, prompt = next(batches)
            yield self.reward(
                batch, self.sample(params, prompt, number, before, clock), number, clock
            )


def make_scorer(model: VLM, micro_batches: int) -> Callable[[dict, Prompt, jax.Array], jax.Array]:
    """Return a jitted `score` without gradient: (params, prompt, tokens) -> log_probs [B,G,T].

    It runs one micro-batch at a time. With `micro_batches` 0 there are as many as leave each device
    one prompt at a time.
    """

    @jax.named_scope("score")
    def score(params: dict, prompt: Prompt, completions: jax.Array) -> jax.Array:
        number = micro_batches or sharding.one_row_each(model.mesh, len(completions))
        parts = sharding.micro_batches((prompt, completions), (prompts.AXES, "BGT"), number)
        log_probs = jax.lax.map(lambda part: model.score(params, *part), parts)
        return sharding.join_micro_batches(log_probs)

    return jax.jit(score)


def make_update(
    model: VLM,
    optimizer: optax.GradientTransformation,
    config: GRPOSettings,
    layout: TrainState,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> Callable[..., tuple[TrainState, dict]]:
    """Return the jitted update: (state, batch, part, base) -> (state, metrics).

    It consumes the state.

    It updates on one of the batch's `config.mini_batches` parts, as if that part were the whole
    batch. Row i belongs to part i % mini_batches. `layout` is a tree of shardings like the state
    (`state.layout`); the new state has the same layout. A state that has not moved yet must hold
    the weights of the reference. `base` are the frozen weights beside an adapter (`tuning.py`). The
    dropout of an adapter depends on `seed`. `max_new_tokens` is as in `weigh`.
    """

    @jax.named_scope("update")
    def grpo_step(
        state: TrainState, batch: Minibatch, part: jax.Array | int = 0, base: dict | None = None
    ):
        parts = sharding.micro_batches(batch, axes(batch), config.mini_batches)
        batch = jax.tree.map(lambda x: x[part], parts)
        # Computed before the split into micro-batches, because they depend on the whole batch.
        batch = batch.replace(weights=weigh(config, batch.rollouts, max_new_tokens))
        rows = len(batch.advantages)
        number = config.micro_batches or sharding.one_row_each(model.mesh, rows)
        keys = tuning.row_keys(model, seed, state.step, rows)

        def of_part(params: dict, part: tuple[Minibatch, jax.Array | None]):
            batch, keys = part
            params = tuning.whole(model, base, params, keys)
            return loss(model, config, params, batch, state.moved)

        parts = sharding.micro_batches((batch, keys), (axes(batch), tuning.axes(keys)), number)
        return states.update(state, optimizer, config.freeze, of_part, parts)

    return jax.jit(grpo_step, donate_argnums=0, out_shardings=(layout, None))
