"""The two loops, SFT and GRPO: where batches, device steps, files and the console meet."""

import collections
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from rrft_jax import rewards as reward_functions
from rrft_jax.data import Batch, Loader, Prefetch, Processor
from rrft_jax.errors import UserError
from rrft_jax.models import Prompt
from rrft_jax.models import prompt as prompts
from rrft_jax.models.vlm import VLM
from rrft_jax.monitoring import MetricsWriter, Progress, compilations, interrupts, say
from rrft_jax.parallel import distributed, sharding
from rrft_jax.rollout import Completions, SamplingParams, generate
from rrft_jax.training import grpo, objectives, sft
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.checkpoints import Checkpoints, stage_folder
from rrft_jax.training.failing import FailingRewards
from rrft_jax.training.groups import AXES, Groups, completions_of, refill
from rrft_jax.training.state import TrainState

SHOWN = ("loss", "reward", "kl", "completion_length")  # beside the progress bar
SAMPLING_STREAM = 1  # of random keys; evaluation draws from another

Draw = Callable[[], tuple[Batch, Any]]  # the next batch, and what `place` made of it


@dataclasses.dataclass
class Run:
    """What both stages need of the run: config, model, folder, and how to evaluate on the way."""

    config: ml_collections.ConfigDict
    model: VLM
    processor: Processor
    mesh: jax.sharding.Mesh
    workdir: pathlib.Path
    metrics: MetricsWriter
    evaluate: Callable[[str, dict], None]  # (name of the evaluation, params)
    best_step: Callable[[str], int | None]  # of a stage, by the evaluations so far
    # (stage, step): drops the evaluations of weights past the step from which the stage goes on.
    forget: Callable[[str, int], None] = lambda stage, step: None


def train_sft(run: Run, params: dict, loader: Loader, steps: int) -> dict:
    """Supervised fine-tuning for `steps` steps, from where the last run of it stopped.

    `params` are consumed. Returns those after the stage.
    """
    config = run.config.sft
    optimizer = optimizers.make_optimizer(config, steps)
    schedule = optimizers.learning_rate(config, steps)
    state = states.create(params, optimizer, config.freeze, run.mesh)
    step_function = sft.make_step(
        run.model, optimizer, config.freeze, config.micro_batches, states.layout(state)
    )

    def place(batch: Batch) -> sft.SFTBatch:
        rows = sft.SFTBatch(batch.prompt, batch.completions, batch.completion_mask)
        return sharding.shard(run.mesh, rows, sft.AXES)

    def step(state: TrainState, draw: Draw, number: int):
        batch, placed = draw()
        started = time.perf_counter()
        state, metrics = step_function(state, placed)
        metrics = jax.device_get(metrics)
        seconds = time.perf_counter() - started
        return state, {
            **metrics,
            "learning_rate": schedule(number - 1),
            "tokens_per_second": batch.tokens / seconds,
            "seconds_update": seconds,
            **batch.padding,
        }

    return _loop(run, "sft", state, loader, steps, place, step)


def train_grpo(run: Run, params: dict, reference: dict | None, loader: Loader, steps: int) -> dict:
    """Group relative policy optimization for `steps` steps.

    Args:
      run: the run.
      params: the policy to start from; consumed.
      reference: the frozen policy of the penalty; None where `config.grpo.beta` is 0.
      loader: batches of prompts without targets.
      steps: each samples a batch, or more where groups are to be replaced, and updates
        `config.grpo.num_iterations` x `config.grpo.mini_batches` times.

    Returns:
      The parameters after the stage.
    """
    config = run.config.grpo
    updates = config.num_iterations * config.mini_batches
    penalized = reference is not None and config.kl_in == "reward"
    optimizer = optimizers.make_optimizer(config, steps * updates)
    schedule = optimizers.learning_rate(config, steps * updates)
    state = states.create(params, optimizer, config.freeze, run.mesh)
    update = grpo.make_step(run.model, optimizer, config, states.layout(state))
    scorer = grpo.make_scorer(run.model, config.mini_batches * config.micro_batches)
    key = jax.random.fold_in(jax.random.key(run.config.seed), SAMPLING_STREAM)
    rollouts = MetricsWriter(run.workdir / "rollouts.jsonl", distributed.is_host0())
    terms = reward_functions.read_terms(config.rewards)
    reward_functions.guard.limit(config.reward_seconds)
    failing = FailingRewards()

    def place(batch: Batch) -> Prompt:
        return sharding.shard(run.mesh, batch.prompt, prompts.AXES)

    def step(state: TrainState, draw: Draw, number: int):
        seconds: collections.Counter[str] = collections.Counter()
        failures = 0

        def sample(before: int) -> tuple[Batch, Prompt, dict[str, np.ndarray]]:
            """The next batch and its completions; `before`: the batches that the step has had."""
            batch, prompt = draw()
            first_row = before * len(prompt.tokens)
            with _timed(seconds, "sample"):
                completions = _sample(
                    run, state.params, prompt, jax.random.fold_in(key, number), first_row
                )
                return batch, prompt, completions_of(completions)

        def reward(batch: Batch, arrays: dict[str, np.ndarray]) -> Groups:
            nonlocal failures
            with _timed(seconds, "rewards"):
                groups = Groups.rewarded(batch, arrays, terms, run.processor, number)
                failures += groups.failed
                failing.check(groups)
                return groups

        def more(before: int) -> Groups:
            batch, _, arrays = sample(before)
            return reward(batch, arrays)

        def score(prompt: Prompt, arrays: dict[str, np.ndarray]) -> grpo.GRPOBatch:
            """A batch without advantages. The device computes on while the host reads texts."""
            with _timed(seconds, "rewards"):
                arrays = sharding.shard(run.mesh, arrays, AXES)
                batch = grpo.GRPOBatch(prompt=prompt, advantages=None, **arrays)
                old = before = None
                if updates > 1 or penalized:
                    old = scorer(state.params, prompt, batch.completions)
                if reference is not None:
                    before = scorer(reference, prompt, batch.completions)
                return batch.replace(old_log_probs=old, reference_log_probs=before)

        drawn, prompt, arrays = sample(0)
        batch = None if config.dynamic_sampling else score(prompt, arrays)
        first = reward(drawn, arrays)
        groups, replaced, rounds = refill(first, more, run.processor, config.dynamic_sampling)
        if batch is None:
            batch = score(place(groups.batch) if replaced else prompt, groups.own_arrays)
        with _timed(seconds, "update"):
            rewards, row_ids = groups.rewards, groups.batch.row_ids
            # Until it moves the policy is the reference; what differs is rounding.
            if penalized and state.moved:
                kl = grpo.completion_kl(config.kl, batch)
                kl = sharding.fetch(sharding.constrain(kl, "BG", run.mesh))
                rewards = rewards - config.beta * np.stack(distributed.gather_rows(row_ids, kl))
            advantages = objectives.ADVANTAGES[config.advantages](rewards).astype(np.float32)
            batch = batch.replace(advantages=sharding.shard(run.mesh, advantages[row_ids], "BG"))
            metrics = []
            for part in config.num_iterations * list(range(config.mini_batches)):
                state, values = update(state, batch, part)
                metrics.append(values)
            metrics = jax.device_get(metrics)
            skipped = sum(values["skipped_updates"] for values in metrics)
            metrics = jax.tree.map(lambda *x: np.mean(x), *metrics)
        if (number - 1) % run.config.rollouts_every == 0:
            groups.write(rollouts, number, advantages)
        # What the policy does is read off the first groups: those that replaced some were chosen.
        return state, {
            **metrics,
            "skipped_updates": skipped,
            **first.metrics(),
            "replaced_groups": replaced,
            "sampled_batches": 1 + rounds,
            "reward_failures": failures,
            "learning_rate": schedule((number - 1) * updates),
            "tokens_per_second": groups.tokens / seconds.total(),
            **seconds,
        }

    return _loop(run, "grpo", state, loader, steps, place, step, rollouts)


@contextlib.contextmanager
def _timed(seconds: collections.Counter[str], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[f"seconds_{name}"] += time.perf_counter() - started


def _loop(
    run: Run,
    stage: str,
    state: TrainState,
    loader: Loader,
    steps: int,
    place: Callable[[Batch], Any],
    step: Callable[[TrainState, Draw, int], tuple[TrainState, dict[str, Any]]],
    *logs: MetricsWriter,
) -> dict:
    """Runs `step` until `steps` are done: resumes, saves, evaluates, and stops when asked to.

    `step` draws as many batches as it needs. `place` puts the next one on the devices while the one
    before is computed. The loader is left where the last step's batches ended. `logs` are files of
    the stage that go back to the checkpoint too.

    Raises:
      Interrupted: a signal came to a process; the state after the current step is saved.
      UserError: a step came to numbers that aren't finite; the checkpoint before it is kept.
    """
    config, folder = run.config, stage_folder(run.workdir, stage)
    checkpoints = Checkpoints(folder, lambda: run.best_step(stage))
    if checkpoints.latest is not None:
        state, position = checkpoints.restore(state)
        loader.set_state(position)
        say(f"{stage}: goes on after step {checkpoints.latest} of {steps}")
    done = checkpoints.latest or 0
    for lines in (run.metrics, *logs):
        lines.truncate_after(stage, done)
    run.forget(stage, done)

    def evaluation_due(number: int) -> bool:
        return bool(config.eval_every) and number % config.eval_every == 0 and 0 < number < steps

    if evaluation_due(done):  # it may have been interrupted
        run.evaluate(f"{stage}@{done}", state.params)
    compiled_before = compilations.total("step")
    batches = Prefetch(loader, place)
    with Progress(stage, total=steps, start=done) as progress:
        for number in range(done + 1, steps + 1):
            state, values = step(state, batches.__next__, number)
            values |= {
                "skipped_samples": sum(batches.position["skipped"].values()),
                "compilations": compilations.total(),
            }
            finite_weights = values.pop("finite_weights") == 1
            run.metrics.write(stage, number, values)
            _check_finite(stage, number, values, finite_weights, folder, checkpoints.latest)
            progress.update(number, {k: values[k] for k in SHOWN if k in values})
            stop = distributed.agree(interrupts.requested())
            due = number % config.checkpoint_every == 0 or evaluation_due(number)
            if stop or due or number == steps:
                checkpoints.save(number, state, batches.position)
            if stop and number < steps:
                raise interrupts.Interrupted(f"{stage}, after step {number} of {steps}")
            if evaluation_due(number):
                run.evaluate(f"{stage}@{number}", state.params)
    checkpoints.close()
    loader.set_state(batches.position)  # what was read ahead is not part of the stage
    if done < steps:
        say(f"{stage}: step programs compiled: {compilations.total('step') - compiled_before}")
    return state.params


def _check_finite(
    stage: str,
    number: int,
    values: dict[str, Any],
    finite_weights: bool,
    folder: pathlib.Path,
    saved: int | None,
) -> None:
    """Ends the run at the first step with a number that isn't finite, before it is saved."""
    names = dict.fromkeys(("loss", "gradient_norm", *values))  # what tells the most comes first
    broken = [name for name in names if not np.isfinite(values[name])]
    if broken:
        problem = f"{broken[0]} is {float(values[broken[0]])}"
    elif not finite_weights:
        problem = "the updated weights are not all finite numbers"
    else:
        return
    kept = "no checkpoint of this stage was saved before"
    if saved is not None:
        kept = f"the last good checkpoint is {folder / str(saved)}"
    raise UserError(
        f"{stage}, step {number}: {problem}; {kept}. Lower {stage}.learning_rate or "
        f"{stage}.clip_norm, raise {stage}.warmup_steps, and give another --workdir"
    )


def _sample(run: Run, params: dict, prompt: Prompt, key: jax.Array, first_row: int) -> Completions:
    sampling = run.config.sampling
    return generate(
        run.model,
        params,
        prompt,
        key,
        num_generations=run.config.grpo.num_generations,
        max_new_tokens=sampling.max_new_tokens,
        stop_tokens=run.processor.stop_tokens,
        sampling=SamplingParams(sampling.temperature, sampling.top_k, sampling.top_p),
        pad_token=run.processor.pad_token,
        cache_chunk=sampling.cache_chunk,
        first_row=first_row,
    )
