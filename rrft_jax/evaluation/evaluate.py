"""Runs a model over a split: completions, scores, and a file with all of them."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from rrft_jax.data import Loader, Processor, prefetch
from rrft_jax.evaluation.scores import score
from rrft_jax.models import prompt as prompts
from rrft_jax.models.qwen2_vl import Qwen2VL
from rrft_jax.monitoring import Progress, interrupts
from rrft_jax.parallel import sharding
from rrft_jax.rollout import SamplingParams, generate

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
    model: Qwen2VL,
    params: dict,
    processor: Processor,
    loader: Loader,
    *,
    mesh: jax.sharding.Mesh,
    seed: int,
    sampling: SamplingParams,
    max_new_tokens: int,
    file: pathlib.Path,
    name: str,
    total: int,
) -> list[float]:
    """Completes every sample once, writes `file` line by line, and returns the scores.

    Args:
      model: the model.
      params: its parameters.
      processor: of its checkpoint.
      loader: one epoch of batches without targets.
      mesh: where the batches are placed.
      seed: of the draws; they depend on it and on the sample's place in the loader's order alone.
      sampling: how to decode.
      max_new_tokens: T.
      file: JSON lines, one a sample; it appears when the last one is done.
      name: of the evaluation, for the progress bar.
      total: number of samples.

    Raises:
      Interrupted: a signal came; an evaluation that isn't finished will begin anew.
    """
    key = jax.random.fold_in(jax.random.key(seed), SAMPLING_STREAM)
    scores: list[float] = []
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(file.name + ".new")
    with beside.open("w", encoding="utf-8") as out, Progress(name, total=total) as progress:
        batches = prefetch(
            loader, lambda batch: sharding.place(mesh, batch.prompt, prompts.LETTERS)
        )
        for number, (batch, prompt, _) in enumerate(batches):
            if interrupts.requested():
                raise interrupts.Interrupted(f"{name}, at sample {len(scores)} of {total}")
            completions = generate(
                model,
                params,
                prompt,
                key,
                max_new_tokens=max_new_tokens,
                stop_tokens=processor.stop_tokens,
                sampling=sampling,
                pad_token=processor.pad_token,
                first_row=number * len(batch.prompt.tokens),
            )
            for row in _rows(processor, batch, jax.device_get(completions)):
                scores.append(row["score"])
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
            if scores:
                progress.update(min(len(scores), total), {"accuracy": sum(scores) / len(scores)})
    beside.replace(file)
    return scores


def _rows(processor: Processor, batch, completions) -> Iterator[dict[str, Any]]:
    for b, (example, prompt_text) in enumerate(zip(batch.examples, batch.prompt_texts)):
        mask = completions.mask[b, 0]
        tokens = completions.tokens[b, 0][mask].tolist()
        text = processor.decode(tokens)
        yield {
            "id": example.id,
            "problem": example.problem,
            "answer": example.answer,
            "prompt": prompt_text,
            "completion": text,
            "tokens": tokens,
            "log_probs": [round(float(x), 5) for x in completions.log_probs[b, 0][mask]],
            "finished": bool(completions.finished[b, 0]),
            "score": score(example.task, text, example.answer),
        }
