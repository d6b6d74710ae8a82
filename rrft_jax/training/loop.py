"""The two loops, SFT and GRPO: where batches, device steps, files and the console meet."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from rrft_jax import rewards as reward_functions
from rrft_jax.data import Batch, Loader, Processor, prefetch
from rrft_jax.models import Prompt
from rrft_jax.models import prompt as prompts
from rrft_jax.models.qwen2_vl import Qwen2VL
from rrft_jax.monitoring import MetricsWriter, Progress, compilations, interrupts, say
from rrft_jax.parallel import sharding
from rrft_jax.rollout import Completions, SamplingParams, generate
from rrft_jax.training import grpo, objectives, sft
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states
from rrft_jax.training.checkpoints import Checkpoints, stage_folder
from rrft_jax.training.state import TrainState

SHOWN = ("loss", "reward", "kl", "completion_length")  # beside the progress bar
SAMPLING_STREAM = 1  # of random keys; evaluation draws from another
ROLLOUTS_KEPT = 2  # prompts of a step whose completions go to rollouts.jsonl


@dataclasses.dataclass
class Run:
    """What both stages need of the run: config, model, folder, and how to evaluate on the way."""

    config: ml_collections.ConfigDict
    model: Qwen2VL
    processor: Processor
    mesh: jax.sharding.Mesh
    workdir: pathlib.Path
    metrics: MetricsWriter
    evaluate: Callable[[str, dict], None]  # (name of the evaluation, params)
    best_step: Callable[[str], int | None]  # of a stage, by the evaluations so far


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
        return sharding.place(run.mesh, rows, sft.LETTERS)

    def step(state: TrainState, batch: Batch, placed: sft.SFTBatch, number: int):
        started = time.perf_counter()
        state, metrics = step_function(state, placed)
        metrics = jax.device_get(metrics)
        seconds = time.perf_counter() - started
        tokens = int(batch.prompt.mask.sum() + batch.completion_mask.sum())
        return state, {
            **metrics,
            "learning_rate": schedule(number - 1),
            "tokens_per_second": tokens / seconds,
            "seconds_update": seconds,
        }

    return _loop(run, "sft", state, loader, steps, place, step)


def train_grpo(run: Run, params: dict, reference: dict | None, loader: Loader, steps: int) -> dict:
    """Group relative policy optimization for `steps` batches of prompts.

    Args:
      run: the run.
      params: the policy to start from; consumed.
      reference: the frozen policy of the penalty; None where `config.grpo.beta` is 0.
      loader: batches of prompts without targets.
      steps: each samples once and updates `config.grpo.inner_updates` times.

    Returns:
      The parameters after the stage.
    """
    config, inner = run.config.grpo, run.config.grpo.inner_updates
    optimizer = optimizers.make_optimizer(config, steps * inner)
    schedule = optimizers.learning_rate(config, steps * inner)
    state = states.create(params, optimizer, config.freeze, run.mesh)
    update = grpo.make_step(run.model, optimizer, config, states.layout(state))
    score = grpo.make_scorer(run.model, config.micro_batches)
    key = jax.random.fold_in(jax.random.key(run.config.seed), SAMPLING_STREAM)
    rollouts = MetricsWriter(run.workdir / "rollouts.jsonl")
    terms = reward_functions.read_terms(config.rewards)
    reward_functions.guard.limit(config.reward_seconds)

    def place(batch: Batch) -> Prompt:
        return sharding.place(run.mesh, batch.prompt, prompts.LETTERS)

    def step(state: TrainState, batch: Batch, prompt: Prompt, number: int):
        clock = [time.perf_counter()]
        completions = _sample(run, state.params, prompt, jax.random.fold_in(key, number))
        tokens, mask, finished = jax.device_get(
            (completions.tokens, completions.mask, completions.finished)
        )
        clock.append(time.perf_counter())
        # The device scores while the host reads the texts.
        old = score(state.params, prompt, completions.tokens) if inner > 1 else None
        reference_log_probs = None
        if reference is not None:
            reference_log_probs = score(reference, prompt, completions.tokens)
        texts = [
            [run.processor.decode(t[m]) for t, m in zip(*group)] for group in zip(tokens, mask)
        ]
        failed = reward_functions.failures()
        by_name, rewards = rewards_of(terms, texts, batch, step=number, lengths=mask.sum(-1))
        advantages = np.asarray(objectives.group_advantages(rewards), np.float32)
        clock.append(time.perf_counter())
        device_batch = grpo.GRPOBatch(
            prompt=prompt,
            completions=completions.tokens,
            mask=completions.mask,
            advantages=sharding.place(run.mesh, advantages, "BG"),
            old_log_probs=old,
            reference_log_probs=reference_log_probs,
        )
        for _ in range(inner):
            state, metrics = update(state, device_batch)
        metrics = jax.device_get(metrics)
        clock.append(time.perf_counter())
        if (number - 1) % run.config.rollouts_every == 0:
            _write_rollouts(rollouts, number, batch, texts, by_name, advantages)
        tokens_seen = batch.prompt.mask.sum() + mask.sum()
        return state, {
            **metrics,
            "reward": rewards.mean(),
            "reward_std": rewards.std(),
            "reward_failures": reward_functions.failures() - failed,
            **{f"reward_{name}": np.nanmean(values) for name, values in by_name.items()},
            **{f"reward_{name}_std": np.nanstd(values) for name, values in by_name.items()},
            "completion_length": mask.sum(-1).mean(),
            "truncated_share": 1 - finished.mean(),
            "learning_rate": schedule((number - 1) * inner),
            "tokens_per_second": tokens_seen / (clock[-1] - clock[0]),
            **dict(zip(("seconds_sample", "seconds_rewards", "seconds_update"), np.diff(clock))),
        }

    return _loop(run, "grpo", state, loader, steps, place, step, rollouts)


def _loop(
    run: Run,
    stage: str,
    state: TrainState,
    loader: Loader,
    steps: int,
    place: Callable[[Batch], Any],
    step: Callable[[TrainState, Batch, Any, int], tuple[TrainState, dict[str, Any]]],
    *logs: MetricsWriter,
) -> dict:
    """Runs `step` until `steps` are done: resumes, saves, evaluates, and stops when asked to.

    `place` puts the next batch on the devices while `step` computes the one before. The loader is
    left where the last step's batch ended. `logs` are files of the stage that go back to the
    checkpoint too.

    Raises:
      Interrupted: a signal came; the state after the current step is saved.
    """
    config, folder = run.config, stage_folder(run.workdir, stage)
    checkpoints = Checkpoints(folder, lambda: run.best_step(stage))
    done = checkpoints.latest or 0
    if done:
        state, position = checkpoints.restore(state)
        loader.set_state(position)
        say(f"{stage}: goes on after step {done} of {steps}")
    for lines in (run.metrics, *logs):
        lines.truncate_after(stage, done)

    def evaluation_due(number: int) -> bool:
        return bool(config.eval_every) and number % config.eval_every == 0 and 0 < number < steps

    if evaluation_due(done):  # it may have been interrupted
        run.evaluate(f"{stage}@{done}", state.params)
    compiled_before = compilations.total("step")
    position = loader.get_state()
    batches = prefetch(loader, place) if done < steps else ()
    with Progress(stage, total=steps, start=done) as progress:
        for number, (batch, placed, position) in zip(range(done + 1, steps + 1), batches):
            state, values = step(state, batch, placed, number)
            values |= batch.padding | {
                "skipped_samples": sum(position["skipped"].values()),
                "compilations": compilations.total(),
            }
            run.metrics.write(stage, number, values)
            progress.update(number, {k: values[k] for k in SHOWN if k in values})
            stop = interrupts.requested()
            due = number % config.checkpoint_every == 0 or evaluation_due(number)
            if stop or due or number == steps:
                checkpoints.save(number, state, position)
            if stop and number < steps:
                raise interrupts.Interrupted(f"{stage}, after step {number} of {steps}")
            if evaluation_due(number):
                run.evaluate(f"{stage}@{number}", state.params)
    checkpoints.close()
    loader.set_state(position)  # what was read ahead is not part of the stage
    if done < steps:
        say(f"{stage}: step programs compiled: {compilations.total('step') - compiled_before}")
    return state.params


def _sample(run: Run, params: dict, prompt, key: jax.Array) -> Completions:
    sampling = run.config.sampling
    return generate(
        run.model,
        params,
        prompt,
        key,
        num_samples=run.config.grpo.num_samples,
        max_new_tokens=sampling.max_new_tokens,
        stop_tokens=run.processor.stop_tokens,
        sampling=SamplingParams(sampling.temperature, sampling.top_k, sampling.top_p),
        pad_token=run.processor.pad_token,
        cache_chunk=sampling.cache_chunk,
    )


def rewards_of(
    terms: Sequence[reward_functions.Term],
    texts: list[list[str]],
    batch: Batch,
    *,
    step: int,
    lengths: np.ndarray,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The rewards of every completion.

    Args:
      terms: for the rows whose source has no rewards of its own.
      texts: [B][G].
      batch: the examples, and the sources that they come from.
      step: of the training.
      lengths: tokens of the completions [B,G].

    Returns:
      by name [B,G], NaN in rows whose source doesn't have that reward; the weighted sums [B,G].
    """
    total = np.zeros((len(texts), len(texts[0])), np.float32)
    by_name: dict[str, np.ndarray] = {}
    for b, (group, example, source) in enumerate(zip(texts, batch.examples, batch.sources)):
        own, given = source.rewards, {"step": step, "lengths": lengths[b].tolist()}
        for term in terms if own is None else reward_functions.read_terms(own):
            values = by_name.setdefault(term.name, np.full_like(total, np.nan))
            values[b] = reward_functions.score(term.name, group, example, **given, **term.options)
            total[b] += term.weight * values[b]
    return by_name, total


def _write_rollouts(
    writer: MetricsWriter,
    number: int,
    batch: Batch,
    texts: list[list[str]],
    by_name: dict[str, np.ndarray],
    advantages: np.ndarray,
) -> None:
    for b in range(min(ROLLOUTS_KEPT, len(texts))):
        for g, text in enumerate(texts[b]):
            values: dict[str, Any] = {
                "id": batch.examples[b].id,
                "prompt": batch.prompt_texts[b],
                "answer": batch.examples[b].answer,
                "completion": text,
                "rewards": {
                    name: values[b, g]
                    for name, values in by_name.items()
                    if not np.isnan(values[b, g])
                },
                "advantage": advantages[b, g],
            }
            writer.write("grpo", number, values)
