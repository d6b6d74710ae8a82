"""The cost of a cell: steps, samples seen, floating-point operations, and seconds.

Training FLOPs are counted by one formula for every paradigm, from `bench.flops.score_flops`, F. It
counts the matrix products of one forward pass over a prompt, its picture and its completions, at
the mean lengths of the first samples:

    SFT                  3 F            forward and backward
    GRPO, sampling       1 F            each token is computed once, from the cache of those before
    GRPO, reference      1 F            if `grpo.beta` is above 0
    GRPO, old policy     1 F            if a batch has more than one update
    GRPO, update         3 F            for each of `grpo.num_iterations`

A frozen vision tower has no backward pass. That of an adapter (`lora.rank`) takes 1 F in place of
2 F, because weights have no gradients; the adapter's own products do not count. The optimizer,
rewards, recomputation, padding and evaluations do not count.
"""

import dataclasses
import pathlib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rrft_jax import json_files
from rrft_jax.bench.flops import score_flops
from rrft_jax.bench.workload import Workload
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.processor import Processor
from rrft_jax.data.samples import Samples, Source
from rrft_jax.data.sources import Data
from rrft_jax.data.stages import model_folder, num_samples, num_steps, open_processor, stage_format
from rrft_jax.errors import UserError
from rrft_jax.hf.pretrained import read_config
from rrft_jax.models.config import VLMConfig
from rrft_jax.report.run import read_metrics
from rrft_jax.settings import Config
from rrft_jax.study.cells import Cell
from rrft_jax.workdir import write_json

NAME = "cost.json"  # in the folder of a finished cell
_MEASURED = 64  # samples of a stage whose lengths are measured


@dataclasses.dataclass(frozen=True)
class Lengths:
    """The mean sizes of the samples of a stage, and the number of these samples."""

    samples: int
    patches: float
    prompt: float  # tokens
    target: float  # tokens; 0 without targets


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a cell's training.

    Attributes:
      steps: stage -> its steps.
      samples_seen: prompts of all steps, each as often as a step has it.
      completions: completions that GRPO samples.
      flops: training FLOPs; an upper bound before the lengths of completions are known.
      seconds: time of the steps without compilation: each counts as the median one of its stage.
        None before they are done, and if another cell did some of them.
    """

    steps: dict[str, int]
    samples_seen: int
    completions: int
    flops: float
    seconds: float | None = None


class Costs:
    """The costs of cells; the data is read and measured once for all seeds."""

    def __init__(self) -> None:
        self._lengths: dict[tuple[str, int], dict[str, Lengths]] = {}
        self._model: tuple[Processor, VLMConfig] | None = None

    def of(self, cell: Cell, metrics: dict[str, list[dict[str, Any]]] | None = None) -> Cost:
        """Return the cost of a cell.

        Args:
          cell: the cell.
          metrics: stage -> lines of its `metrics.jsonl`; None before the run.

        Raises:
          UserError: the model or the data has a mistake.
        """
        config, lines = cell.config, metrics or {}
        if self._model is None:
            processor = open_processor(config.model, config.data)
            self._model = processor, read_config(model_folder(config.model))[0]
        which = cell.paradigm, cell.samples
        if which not in self._lengths:
            self._lengths[which] = _measure(config, self._model[0])
        steps, seen, completions, flops = {}, 0, 0, 0.0
        for stage, lengths in self._lengths[which].items():
            section = config.stage(stage)
            steps[stage] = num_steps(section, lengths.samples)
            prompts = steps[stage] * section.batch_size
            seen += prompts
            if stage == "grpo":
                completions = prompts * section.num_generations
            said = [line["completion_length"] for line in lines.get("grpo", ())]
            longest = config.sampling.max_new_tokens
            tokens = sum(said) / len(said) if said else longest
            flops += prompts * stage_flops(config, stage, self._model[1], lengths, tokens)
        return Cost(steps, seen, completions, flops, _seconds(steps, lines))


def stage_flops(
    config: Config, stage: str, model: VLMConfig, lengths: Lengths, tokens: float
) -> float:
    """Return the training FLOPs of one prompt in a stage.

    Args:
      config: the cell's settings.
      stage: the stage.
      model: the sizes of the model.
      lengths: the mean sizes of the stage's samples.
      tokens: the mean tokens of a completion of GRPO.
    """
    section, grpo = config.stage(stage), stage == "grpo"
    work = Workload(
        prompts=1,
        prompt_tokens=lengths.prompt,
        rows=lengths.patches,
        cols=1,
        samples=section.num_generations if grpo else 1,
        new_tokens=tokens if grpo else lengths.target,
        model=model,
    )
    forward = score_flops(work)
    tower = forward - score_flops(dataclasses.replace(work, rows=0))
    backward = 1 if config.lora.rank else 2
    update = (1 + backward) * forward
    if _tower_is_frozen(config, section.freeze):
        update -= backward * tower
    if not grpo:
        return update
    scored = (section.beta > 0) + (section.num_iterations * section.mini_batches > 1)
    return (1 + scored) * forward + section.num_iterations * update


def _tower_is_frozen(config: Config, freeze: str) -> bool:
    if config.lora.rank:
        return config.lora.targets == "decoder"
    return bool(freeze and re.fullmatch(freeze, "vision/every"))


def keep(costs: Costs, cell: Cell) -> None:
    """Write the cost of a finished cell into its folder."""
    found = dataclasses.asdict(costs.of(cell, read_metrics(cell.folder)))
    write_json(cell.folder / NAME, found)


def read(folder: pathlib.Path) -> Cost | None:
    """Return the cost that `keep` wrote into a cell's folder; None without one."""
    file = folder / NAME
    values = json_files.read_object(file.read_bytes()) if file.exists() else {}
    return Cost(**values) if values else None


def estimate(cell: Cell, expected: Mapping[str, Cost], finished: Sequence[Cell]) -> float | None:
    """Return an estimate of the seconds of a cell's steps; None if no cell is finished.

    It is by the expected FLOPs of the finished cells of the same paradigm, or else of all.

    Args:
      cell: the cell.
      expected: the cost of every cell before its run, by the cell's name.
      finished: the finished cells.
    """
    kept = [(other, read(other.folder)) for other in finished]
    timed = [(other, own.seconds) for other, own in kept if own and own.seconds]
    known = [one for one in timed if one[0].paradigm == cell.paradigm] or timed
    if not known:
        return None
    speed = sum(expected[other.name].flops for other, _ in known) / sum(time for _, time in known)
    return expected[cell.name].flops / speed


def _seconds(steps: Mapping[str, int], lines: Mapping[str, list[dict[str, Any]]]) -> float | None:
    found = 0.0
    for stage, number in steps.items():
        own = [line["seconds_step"] for line in lines.get(stage, ()) if line.get("seconds_step")]
        if not own:
            return None
        found += number * statistics.median(own)
    return found


def _measure(config: Config, processor: Processor) -> dict[str, Lengths]:
    found = {}
    for stage, sources in Data.open(config).training.items():
        found[stage] = _lengths(config, stage, sources, processor)
    return found


def _lengths(
    config: Config, stage: str, sources: Sequence[Source], processor: Processor
) -> Lengths:
    samples = Samples(sources, processor, stage_format(config, stage), config.seed)
    total = num_samples(sources)
    numbers = range(0, total, max(1, total // _MEASURED))
    every = [samples.measure(number) for number in list(numbers)[:_MEASURED]]
    sizes = [size for size in every if not isinstance(size, BadSample)]
    if not sizes:
        raise UserError(f"{stage}: none of {len(every)} samples can be used, such as: {every[0]}")
    return Lengths(total, *(sum(column) / len(sizes) for column in zip(*sizes)))
