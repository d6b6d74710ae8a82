"""The evaluation of a model on held-out splits: completions, scores, a file with all of them."""

import collections
import dataclasses
import itertools
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from rrft_jax import rewards as reward_functions
from rrft_jax.data import Batch, Example, Loader, Prefetch, Processor, Source
from rrft_jax.data.skipped import SkippedLog
from rrft_jax.data.stages import num_samples, stage_loader
from rrft_jax.data.thumbnails import Thumbnails, thumbnails
from rrft_jax.errors import UserError
from rrft_jax.evaluation import tables
from rrft_jax.evaluation.partial import Partial
from rrft_jax.evaluation.predictions import MODES, entry, read, score_all
from rrft_jax.evaluation.results import Results, shown_name
from rrft_jax.evaluation.rewarding import reward_rows
from rrft_jax.models import prompt as prompts
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM
from rrft_jax.monitoring import Progress, interrupts, say, waiting
from rrft_jax.parallel import distributed, sharding
from rrft_jax.rollout import GenerationConfig, Rollouts, SamplingParams, stream
from rrft_jax.settings import Config
from rrft_jax.tasks import find
from rrft_jax.tasks.opening import reply_of

SAMPLING_STREAM = 2  # stream of random keys; training uses another one
PICTURED = 100  # samples of a split whose pictures are kept, in whole batches


def decoding(sampling: SamplingParams) -> str:
    """Return the decoding in words, for the results: "greedy", "temperature 0.1, top-k 50"."""
    if sampling.temperature == 0:
        return "greedy"
    parts = [f"temperature {sampling.temperature:g}"]
    parts += [f"top-k {sampling.top_k}"] * (sampling.top_k > 0)
    parts += [f"top-p {sampling.top_p:g}"] * (sampling.top_p < 1)
    return ", ".join(parts)


@dataclasses.dataclass
class Evaluator:
    """An evaluator of weights on every held-out split; it adds the outcome to the results.

    Attributes:
      config: the run's config.
      model: the model.
      processor: the processor of the model's checkpoint.
      splits: the samples of each split.
      results: the run's results.
      skipped: the log of samples that are left out.
      thumbnails: the folder of the pictures that are kept.
    """

    config: Config
    model: VLM
    processor: Processor
    splits: Mapping[str, Sequence[Source]]
    results: Results
    skipped: SkippedLog
    thumbnails: Thumbnails

    def __post_init__(self):
        # One loader per split for the whole run, so that its samples are measured once.
        self._loaders: dict[str, Loader] = {}

    def evaluate(self, name: str, params: dict) -> None:
        """Evaluate every split that the results lack under this name.

        Args:
          name: the name of the weights: "start", a stage, or "grpo@20" for a step of a stage.
          params: the weights.

        Raises:
          Interrupted: a signal came; the next call continues from here.
          UserError: a log-probability is not a finite number.
        """
        config = self.config.eval
        decodings = {"": SamplingParams(config.temperature, config.top_k, config.top_p)}
        if config.sampled:
            decodings["-sampled"] = SamplingParams(1.0, 0, 1.0)
        for split in self.splits:
            for suffix, sampling in decodings.items():
                if not self.results.has(name, split + suffix):
                    self._evaluate(name, split, suffix, sampling, params)

    def _evaluate(
        self, name: str, split: str, suffix: str, sampling: SamplingParams, params: dict
    ) -> None:
        """Evaluate one split with one way of decoding."""
        loader, row = self._loader(split), split + suffix
        title = f"{shown_name(self.config, name)}: {row}"
        beginning = loader.get_state()
        file = self.results.predictions(name, row)
        total = num_samples(self.splits[split])
        self._complete(title, loader, total, sampling, params, file)
        found = distributed.on_host0(lambda: entry(read(file)))
        found["decoding"] = decoding(sampling)
        if loader.skipped:
            found["skipped"] = dict(loader.skipped)
        loader.set_state(beginning)
        self.results.add(name, row, found)
        say(f"{title} {_in_words(found)}")

    def close(self) -> None:
        """Stop reading the splits."""
        for loader in self._loaders.values():
            loader.close()

    def _loader(self, split: str) -> Loader:
        if split not in self._loaders:
            with waiting(f"{split}: measuring its samples"):
                self._loaders[split] = loader = stage_loader(
                    self.config,
                    "eval",
                    self.splits[split],
                    self.processor,
                    self.model.mesh,
                    self.skipped.report(split),
                )
                shapes = loader.description()
            for line in shapes:
                say(f"{split}: {line}")
        return self._loaders[split]

    def _complete(
        self,
        title: str,
        loader: Loader,
        total: int,
        sampling: SamplingParams,
        params: dict,
        file: pathlib.Path,
    ) -> None:
        """Complete every sample and write `file`: JSON lines, one per completion.

        Every process scores its own completions, and the first process writes. Finished streams of
        batches are kept in `FILE.partial`. After an interruption the next call continues after
        them. It comes to the same rows, because a draw depends only on the seed and on the sample's
        place in the loader's order, and rounding on the batches of the stream. It reads the
        finished batches again, so that the loader counts the samples that it leaves out, but does
        not sample them again.
        """
        passes = self.config.eval.passes
        terms = reward_functions.read_terms(self.config.eval.rewards)
        partial = Partial(file, passes) if distributed.is_host0() else None
        begun, tally = partial.begun if partial else 0, _Tally()

        def unfinished() -> Iterator[tuple[int, Batch, Prompt]]:
            """Yield the batches that `partial` lacks, with their numbers."""
            for number, (batch, prompt) in enumerate(Prefetch(loader, self._place)):
                rows = distributed.gather(partial.take(batch.ids) if partial else None)[0]
                if rows is None:
                    yield number, batch, prompt
                else:
                    tally.add(batch, rows)

        with Progress(title, total=total, start=begun) as progress:
            together = stream.batches_together()
            for _, batches in itertools.groupby(unfinished(), lambda own: own[0] // together):
                kept, finished = f"{title}, at sample {tally.samples} of {total}", []
                _check_interrupted(kept)
                first = f"{title}: the first batch, which compiles its programs"
                first = first if tally.samples == begun else ""
                for batch, rollouts, more in self._sampled(batches, sampling, params, first):
                    rows = self._rows(batch, rollouts, terms, tally.samples < PICTURED)
                    _check_finite(rows, title)
                    finished += rows
                    tally.add(batch, rows)
                    progress.update(min(tally.samples, total), tally.means())
                    if more:
                        _check_interrupted(kept)
                if partial:
                    partial.append(finished)
        if partial:
            partial.finish()

    def _place(self, batch: Batch) -> Prompt:
        return sharding.shard(self.model.mesh, batch.prompt, prompts.AXES)

    def _sampled(
        self,
        batches: Iterator[tuple[int, Batch, Prompt]],
        sampling: SamplingParams,
        params: dict,
        first: str,
    ) -> Iterator[tuple[Batch, Rollouts, bool]]:
        """Yield batches with their completions, and True if another batch is on its way.

        Args:
          batches: the batches with their numbers, from 0.
          sampling: temperature, top-k and top-p.
          params: the weights.
          first: the words about a long wait for the first of the batches.
        """
        config = GenerationConfig(
            num_generations=self.config.eval.passes,
            max_new_tokens=self.config.eval.max_new_tokens,
            stop_tokens=self.processor.stop_tokens,
            sampling=sampling,
            pad_token=self.processor.pad_token,
        )
        key = jax.random.fold_in(jax.random.key(self.config.seed), SAMPLING_STREAM)
        begun: collections.deque[Batch] = collections.deque()

        def given() -> Iterator[tuple[int, Prompt]]:
            for number, batch, prompt in batches:
                begun.append(batch)
                yield number * len(prompt.tokens), prompt

        completions = stream.complete(self.model, params, given(), key, config)
        while True:
            with waiting(first):
                rollouts = next(completions, None)
            if rollouts is None:
                return
            first = ""
            yield begun.popleft(), rollouts, bool(begun)

    def _rows(
        self,
        batch: Batch,
        rollouts: Rollouts,
        terms: Sequence[reward_functions.Term],
        pictures: bool,
    ) -> list[dict[str, Any]]:
        """Return the rows of all processes, scored; with `pictures`, small ones are kept."""
        limit = reward_functions.guard.limit(self.config.eval.reward_seconds)
        with limit, waiting("scoring completions"):
            own = list(_rows(self.processor, batch, rollouts, terms, pictures))
        row_ids = [batch.row_ids[b] for b in batch.rows]
        rows = itertools.chain.from_iterable(distributed.gather_rows(row_ids, own))
        return [self.thumbnails.keep(row) for row in rows]


def _check_interrupted(place: str) -> None:
    if any(distributed.gather(interrupts.requested())):
        raise interrupts.Interrupted(place)


class _Tally:
    """The samples so far, and the means of their scores and rewards."""

    def __init__(self):
        self.samples = 0
        self._values: dict[str, list[float]] = collections.defaultdict(list)

    def add(self, batch: Batch, rows: Sequence[dict[str, Any]]) -> None:
        self.samples += len(batch.ids)
        for row in rows:
            found = {"accuracy": row.get(MODES["default"]), **tables.reward_columns(row)}
            for measure, value in found.items():
                self._values[measure] += [] if value is None else [value]

    def means(self) -> dict[str, float]:
        return {name: sum(own) / len(own) for name, own in self._values.items() if own}


def _check_finite(rows: list[dict], name: str) -> None:
    for row in rows:
        if not all(map(math.isfinite, row["log_probs"])):
            raise UserError(
                f"{name}: a log-probability of sample {row['id']} is not a finite number, so the "
                "weights are broken; take those of an earlier checkpoint"
            )


def _in_words(entry: Mapping[str, Any]) -> str:
    """Return the outcome of a split in one line."""
    parts = []
    if "accuracy" in entry:
        parts.append(f"{tables.percent(entry)} %")
    parts += [f"{name} {tables.decimal(own)}" for name, own in tables.reward_columns(entry).items()]
    failures = entry.get("reward_failures", {}).items()
    parts += [f"{name} failed on {number:,} completions" for name, number in failures]
    return f"{', '.join(parts)} ({entry['decoding']}, {entry['samples']:,} samples)"


def _rows(
    processor: Processor,
    batch: Batch,
    rollouts: Rollouts,
    terms: Sequence[reward_functions.Term],
    pictures: bool,
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each sample of a batch, one per completion; with `pictures`, small ones."""
    for b, example, prompt_text in zip(batch.rows, batch.examples, batch.prompt_texts):
        group = jax.tree.map(lambda x: x[b], rollouts)  # noqa: B023
        tokens = [own[mask].tolist() for own, mask in zip(group.tokens, group.mask)]
        task, decode = find(example.task), processor.decode
        texts = [reply_of(task, processor.prompt_end, decode(own)) for own in tokens]
        rewarded = reward_rows(terms, texts, example, [len(own) for own in tokens])
        small = {"pictures": thumbnails(example.images)} if pictures and example.images else {}
        rows = []
        for g, text in enumerate(texts):
            rows.append(
                {
                    "id": example.id,
                    **({"pass": g} if len(texts) > 1 else {}),
                    **_of_sample(example, prompt_text),
                    **small,
                    "completion": text,
                    "tokens": tokens[g],
                    "log_probs": [round(float(x), 5) for x in group.log_probs[g][group.mask[g]]],
                    "finished": bool(group.finished[g]),
                    **{
                        MODES[mode]: value
                        for mode, value in score_all(example.task, text, example.answer).items()
                    },
                    **rewarded[g],
                }
            )
        yield rows


def _of_sample(example: Example, prompt_text: str) -> dict[str, Any]:
    """Return the fields of a row that are the same for all completions of a sample."""
    return {
        "task": example.task,
        **({"part": example.part} if example.part else {}),
        "problem": example.question,
        "answer": example.answer,
        **({"extra": dict(example.extra)} if example.extra else {}),
        "prompt": prompt_text,
    }
