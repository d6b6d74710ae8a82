"""Runs a model over a split: completions, scores, and a file with all of them."""

import itertools
import math
import pathlib
from typing import Any

import jax

from rrft_jax.data import Batch, Example, Loader, Prefetch, Processor
from rrft_jax.errors import UserError
from rrft_jax.evaluation.partial import Partial
from rrft_jax.evaluation.predictions import MODES, score_all
from rrft_jax.models import prompt as prompts
from rrft_jax.models.vlm import VLM
from rrft_jax.monitoring import Progress, interrupts
from rrft_jax.parallel import distributed, sharding
from rrft_jax.rollout import Completions, SamplingParams, generate

SAMPLING_STREAM = 2  # of random keys; training draws from another


def decoding(sampling: SamplingParams) -> str:
    """How completions were drawn, for the results: "greedy", "temperature 0.1, top-k 50"."""
    if sampling.temperature == 0:
        return "greedy"
    parts = [f"temperature {sampling.temperature:g}"]
    parts += [f"top-k {sampling.top_k}"] * (sampling.top_k > 0)
    parts += [f"top-p {sampling.top_p:g}"] * (sampling.top_p < 1)
    return ", ".join(parts)


def evaluate(
    model: VLM,
    params: dict,
    processor: Processor,
    loader: Loader,
    *,
    mesh: jax.sharding.Mesh,
    seed: int,
    sampling: SamplingParams,
    max_new_tokens: int,
    passes: int = 1,
    file: pathlib.Path,
    name: str,
    total: int,
) -> None:
    """Completes every sample and writes `file`, JSON lines, one a completion.

    Every process scores its own, and the first one writes. What is done stands in `FILE.partial`
    batch by batch. A later call goes on behind it, to the
    same rows, because a draw depends on the seed and the sample's place alone. The batches before
    are only read again: a loader counts what it leaves out as it goes.

    Args:
      model: the model.
      params: its parameters; those that a partial file was begun with.
      processor: of its checkpoint.
      loader: one epoch of batches without targets.
      mesh: where the batches are placed.
      seed: of the draws; they depend on it and on the sample's place in the loader's order alone.
      sampling: how to decode.
      max_new_tokens: T.
      passes: completions a sample; with more than one, each row says its "pass".
      file: it appears when the last sample is done.
      name: of the evaluation, for the progress bar.
      total: number of samples.

    Raises:
      Interrupted: a signal came; the next call goes on from here.
      UserError: a log-probability is not a finite number.
    """
    key = jax.random.fold_in(jax.random.key(seed), SAMPLING_STREAM)
    partial = Partial(file, passes) if distributed.is_host0() else None
    begun, done, scores = partial.begun if partial else 0, 0, []
    with Progress(name, total=total, start=begun) as progress:
        batches = Prefetch(loader, lambda batch: sharding.shard(mesh, batch.prompt, prompts.AXES))
        for number, (batch, prompt) in enumerate(batches):
            told = distributed.gather(
                (interrupts.requested(), partial.take(batch.ids) if partial else None)
            )
            rows = told[0][1]
            if rows is None:
                if any(stop for stop, _ in told):
                    raise interrupts.Interrupted(f"{name}, at sample {done} of {total}")
                completions = generate(
                    model,
                    params,
                    prompt,
                    key,
                    num_generations=passes,
                    max_new_tokens=max_new_tokens,
                    stop_tokens=processor.stop_tokens,
                    sampling=sampling,
                    pad_token=processor.pad_token,
                    first_row=number * len(prompt.tokens),
                )
                row_ids = [batch.row_ids[b] for b in batch.rows]
                own = _rows(processor, batch, sharding.fetch(completions))
                rows = list(itertools.chain.from_iterable(distributed.gather_rows(row_ids, own)))
                _check_finite(rows, name)
                if partial:
                    partial.append(rows)
            done += len(batch.ids)
            scores += [row[MODES["default"]] for row in rows]
            if scores and done > begun:
                progress.update(min(done, total), {"accuracy": sum(scores) / len(scores)})
    if partial:
        partial.finish()


def _check_finite(rows: list[dict], name: str) -> None:
    for row in rows:
        if not all(map(math.isfinite, row["log_probs"])):
            raise UserError(
                f"{name}: a log-probability of sample {row['id']} is not a finite number, so the "
                "weights are broken; take those of an earlier checkpoint"
            )


def _rows(processor: Processor, batch: Batch, completions: Completions) -> list[list[dict]]:
    """The rows of each sample of a batch, one a completion."""
    return [
        [
            _row(processor, example, text, jax.tree.map(lambda x: x[b], completions), g)  # noqa: B023
            for g in range(completions.tokens.shape[1])
        ]
        for b, example, text in zip(batch.rows, batch.examples, batch.prompt_texts)
    ]


def _row(
    processor: Processor, example: Example, prompt_text: str, group: Completions, g: int
) -> dict[str, Any]:
    """What `file` says of completion `g` of a sample's, [G,T]."""
    mask = group.mask[g]
    tokens = group.tokens[g][mask].tolist()
    text = processor.decode(tokens)
    scores = score_all(example.task, text, example.answer)
    return {
        "id": example.id,
        **({"pass": g} if len(group.tokens) > 1 else {}),
        "task": example.task,
        **({"part": example.part} if example.part else {}),
        "problem": example.question,
        "answer": example.answer,
        "prompt": prompt_text,
        "completion": text,
        "tokens": tokens,
        "log_probs": [round(float(x), 5) for x in group.log_probs[g][mask]],
        "finished": bool(group.finished[g]),
        **{MODES[mode]: value for mode, value in scores.items()},
    }
