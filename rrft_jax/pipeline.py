"""The stages of a run, in order: evaluate, SFT, evaluate, GRPO, evaluate, export.

What is done is read off the run's folder, so that the same command goes on where it was stopped:
an evaluation is done when `results.json` has it, a stage of training when its last step is saved.
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from rrft_jax.data import (
    Example,
    Loader,
    Processor,
    Prompts,
    drawn,
    find_splits,
    make_loader,
    read_examples,
    read_prompts,
)
from rrft_jax.errors import UserError
from rrft_jax.evaluation import evaluate as evaluation
from rrft_jax.evaluation import scores, tables
from rrft_jax.models import load_pretrained, save_pretrained
from rrft_jax.models.pretrained import read_config
from rrft_jax.monitoring import MetricsWriter, interrupts, say
from rrft_jax.parallel.mesh import batch_parts, make_mesh
from rrft_jax.rollout import SamplingParams
from rrft_jax.training import loop
from rrft_jax.training import state as states

TINY = pathlib.Path(__file__).parent / "assets" / "tiny"
DRAWN_TRAINING = 100_000
DRAWN_TEST = 1000


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs all stages of a config that `workdir` doesn't have yet.

    A signal ends it after the current step, with everything saved and a line that says so.

    Raises:
      UserError: what was given doesn't fit, before anything is compiled wherever it can be seen.
    """
    jax.config.update("jax_threefry_partitionable", True)  # draws don't depend on the mesh
    workdir = pathlib.Path(workdir)
    mesh = make_mesh(**config.mesh)
    _check_batches(config, mesh)
    data = Data.open(config)
    processor = open_processor(config)
    model, params = load_pretrained(
        model_folder(config),
        config.model.dtype,
        compute_dtype=config.model.compute_dtype,
        mesh=mesh,
    )
    model = dataclasses.replace(
        model, remat=config.model.remat, logit_chunk=config.model.logit_chunk
    )
    for stage in config.stages:
        states.split(params, config[stage].freeze)
    _warn_about_size(config, params)
    _claim(config, workdir)  # only now: a mistake above leaves no folder behind
    try:
        _Stages(config, workdir, mesh, model, processor, data).run(params)
    except interrupts.Interrupted as place:
        say(f"stopped: {place}; the same command goes on from here")


def _warn_about_size(config: ml_collections.ConfigDict, params: dict) -> None:
    size = sum(x.size for x in jax.tree.leaves(params))
    if config.model.name == "tiny" and config.stages and size > 50e6:
        say(
            f"warning: a model of {size:,} parameters under the settings of the tiny one (learning "
            "rates, lengths, dropped thoughts); those of the paper are --config=FILE:model=2b"
        )


def model_folder(config: ml_collections.ConfigDict) -> pathlib.Path:
    """The checkpoint folder that a config starts from."""
    if config.model.path:
        return pathlib.Path(config.model.path)
    if config.model.name == "tiny":
        return TINY
    raise UserError(
        f"model.path is empty: give the folder of a Qwen2-VL {config.model.name} checkpoint, "
        "--config.model.path=DIR"
    )


def open_processor(config: ml_collections.ConfigDict) -> Processor:
    """The processor of the checkpoint that a config starts from."""
    folder = model_folder(config)
    read_config(folder)  # before its tokenizer: the message is about what the folder is
    return Processor.from_pretrained(
        folder, min_pixels=config.data.min_pixels, max_pixels=config.data.max_pixels
    )


@dataclasses.dataclass
class Data:
    """The samples of a run, a sequence a training stage or held-out split, and how they're put."""

    prompts: Prompts
    training: dict[str, Sequence[Example]]
    splits: dict[str, Sequence[Example]]

    @classmethod
    def open(cls, config: ml_collections.ConfigDict) -> "Data":
        prompts = read_prompts(
            config.task,
            config.paradigm,
            file=config.data.prompts,
            system=config.data.system_prompt,
            variant=config.data.variant,
        )
        if prompts.variant and "sft" in config.stages:
            say("data: data.variant asks for a summary and a caption, which SFT's targets lack")
        return cls._read(config, prompts) if config.data.path else cls._draw(config, prompts)

    @classmethod
    def _draw(cls, config, prompts: Prompts) -> "Data":
        size = drawn.TINY_SIZE if config.model.name == "tiny" else drawn.SIZE

        def source(split: str, start: int, stop: int) -> drawn.DrawnSource:
            return drawn.DrawnSource(config.task, split, config.seed, start, stop, size)

        first = config.data.activation_samples if "sft" in config.stages else 0
        limit = config.eval.samples or DRAWN_TEST
        return cls(
            prompts,
            training={
                "sft": source("train", 0, config.data.activation_samples),
                "grpo": source("train", first, first + DRAWN_TRAINING),
            },
            # Held-out pictures are the same for every seed, so that runs can be compared.
            splits={
                name: drawn.DrawnSource(config.task, name, 0, 0, limit, size)
                for name in drawn.splits(config.task)
            },
        )

    @classmethod
    def _read(cls, config, prompts: Prompts) -> "Data":
        def read(split: str) -> list[Example]:
            return read_examples(config.data.path, config.task, split, config.data.image_root)

        files = find_splits(config.data.path, config.task)
        say("data: " + ", ".join(f"{split} from {file}" for split, file in files.items()))
        if len(set(files.values())) < len(files):
            say("data: one file serves several splits: their accuracy is not that of held-out data")
        limit = config.eval.samples or None
        splits = {split: read(split)[:limit] for split in files if split != "train"}
        if not splits and not config.stages:
            raise UserError(f"{config.data.path}: no test file for {config.task}")
        training = {}
        if config.stages:
            if "train" not in files:
                raise UserError(f"{config.data.path}: no training file for {config.task}")
            every = read("train")
            training = {"sft": every, "grpo": every}
            if config.paradigm == "reason_rft":
                training = _activation_split(config, every)
            if "sft" in config.stages and config.paradigm != "ans_sft":
                bare = sum(not example.cot for example in training["sft"])
                if bare:
                    say(
                        f"data: {bare} of the {len(training['sft'])} samples of SFT have no chain "
                        "of thought; theirs is left empty"
                    )
        return cls(prompts, training, splits)


def _activation_split(config, every: list[Example]) -> dict[str, list[Example]]:
    """`reason_rft`: the first samples wake reasoning up, the rest (or all) reinforce it."""
    first = config.data.activation_samples
    rest = every if config.data.reuse_activation else every[first:]
    if not rest:
        say(f"data: {len(every)} samples, no more than the {first} of SFT: GRPO uses them too")
        rest = every
    return {"sft": every[:first], "grpo": rest}


@dataclasses.dataclass
class _Stages:
    """The run itself; every method leaves the folder in a state that a resumed run understands."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    mesh: jax.sharding.Mesh
    model: Any
    processor: Processor
    data: Data

    def run(self, params: dict) -> None:
        config = self.config
        self.evaluate("start", params)
        context = loop.Run(
            config,
            self.model,
            self.processor,
            self.mesh,
            self.workdir,
            MetricsWriter(self.workdir / "metrics.jsonl"),
            self.evaluate,
        )
        for stage in config.stages:
            steps = self._steps(stage)
            say(f"{stage}: {steps} steps on {len(self.data.training[stage]):,} samples")
            with contextlib.closing(self._loader(self.data.training[stage], stage)) as loader:
                if stage == "sft":
                    params = loop.train_sft(context, params, loader, steps)
                else:
                    beta = config.grpo.beta
                    reference = jax.tree.map(lambda x: x.copy(), params) if beta else None
                    params = loop.train_grpo(context, params, reference, loader, steps)
            self.evaluate(stage, params)
        if config.stages:
            save_pretrained(self.workdir / "export", self.model, params)
            say(f"export: {self.workdir / 'export'}")
        print(tables.results_table(self._results()), flush=True)
        self._print_gains()

    def evaluate(self, name: str, params: dict) -> None:
        """Evaluates every split, unless `results.json` has it, and adds it there."""
        config = self.config.eval
        decodings = {"": SamplingParams(config.temperature, config.top_k, config.top_p)}
        if config.sampled:
            decodings["-sampled"] = SamplingParams(1.0, 0, 1.0)
        for split, examples in self.data.splits.items():
            for suffix, sampling in decodings.items():
                results = self._results()
                if split + suffix in results.get(name, {}):
                    continue
                with contextlib.closing(self._loader(examples, "eval")) as loader:
                    values = evaluation.evaluate(
                        self.model,
                        params,
                        self.processor,
                        loader,
                        mesh=self.mesh,
                        seed=self.config.seed,
                        sampling=sampling,
                        max_new_tokens=config.max_new_tokens,
                        file=self._predictions(name, split + suffix),
                        name=f"{name}: {split}{suffix}",
                        total=len(examples),
                    )
                entry = scores.summary(values) | {"decoding": evaluation.decoding(sampling)}
                if loader.skipped:
                    entry["skipped"] = dict(loader.skipped)
                results.setdefault(name, {})[split + suffix] = entry
                _write_json(self.workdir / "results.json", results)
                say(
                    f"{name}: {split}{suffix} {100 * entry['accuracy']:.1f} % "
                    f"(± {100 * entry['standard_error']:.1f}, {entry['decoding']}, "
                    f"{entry['samples']:,} samples)"
                )

    def _print_gains(self) -> None:
        """What each stage gained over the one before, on the same samples."""
        for before, after in itertools.pairwise(("start", *self.config.stages)):
            for split in self._results()[after]:
                pair = [self._scores(name, split) for name in (before, after)]
                if len(pair[0]) == len(pair[1]):
                    gain, error = scores.paired_gain(*pair)
                    print(
                        f"{before} -> {after}, {split}: {100 * gain:+.1f} ± {100 * error:.1f} "
                        "points (paired)"
                    )

    def _scores(self, name: str, split: str) -> list[float]:
        lines = self._predictions(name, split).read_text().splitlines()
        return [json.loads(line)["score"] for line in lines]

    def _predictions(self, name: str, split: str) -> pathlib.Path:
        """The file of an evaluation: the last stage's is in the run's folder itself."""
        last = self.config.stages[-1] if self.config.stages else "start"
        folder = self.workdir if name == last else self.workdir / "evaluations" / name
        return folder / f"predictions-{split}.jsonl"

    def _results(self) -> dict[str, Any]:
        file = self.workdir / "results.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def _steps(self, stage: str) -> int:
        section = self.config[stage]
        if section.steps:
            return section.steps
        return -(-len(self.data.training[stage]) * section.epochs // section.batch_size)

    def _loader(self, examples: Sequence[Example], stage: str) -> Loader:
        batch_size = self.config[stage].batch_size
        if stage == "eval":  # a small split needs no large batch
            parts = batch_parts(self.mesh)
            batch_size = min(batch_size, -(-len(examples) // parts) * parts)
        prompts = self.data.prompts
        return stage_loader(
            self.config, stage, examples, prompts, self.processor, batch_size=batch_size
        )


def stage_loader(
    config: ml_collections.ConfigDict,
    stage: str,
    examples: Sequence[Example],
    prompts: Prompts,
    processor: Processor,
    *,
    batch_size: int,
) -> Loader:
    """The batches of a stage: "sft" (with targets), "grpo" or "eval" (once through, in order)."""
    return make_loader(
        examples,
        processor,
        paradigm=config.paradigm,
        batch_size=batch_size,
        seed=config.seed,
        shuffle=stage != "eval",
        epochs=1 if stage == "eval" else None,
        targets=stage == "sft",
        max_prompt_length=config.data.max_prompt_length,
        max_target_length=config.data.max_target_length,
        thought_dropout=config.data.thought_dropout,
        prompts=prompts,
        smallest_bucket=config.data.smallest_bucket,
        max_skipped_share=config.data.max_skipped_share,
    )


def _check_batches(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
    parts = batch_parts(mesh)
    for stage in (*config.stages, "eval"):
        section = config[stage]
        multiple = parts * section.get("micro_batches", 1)
        if section.batch_size % multiple:
            raise UserError(
                f"{stage}.batch_size={section.batch_size}: expected a multiple of {multiple} "
                "(mesh.data x mesh.fsdp x micro_batches)"
            )


def _claim(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Writes config.json, or checks that the folder's run is of the same config."""
    file, mine = workdir / "config.json", json.loads(config.to_json_best_effort())
    try:
        if not file.exists():
            workdir.mkdir(parents=True, exist_ok=True)
            _write_json(file, mine)
            return
        theirs, mine = _flat(json.loads(file.read_text())), _flat(mine)
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir}: can't hold a run ({error}); give another --workdir") from None
    for key in sorted(theirs.keys() | mine.keys()):
        if theirs.get(key) != mine.get(key):
            raise UserError(
                f"{workdir} holds a run of another config: {key} is {theirs.get(key)!r} there and "
                f"{mine.get(key)!r} here; give another --workdir, or delete that one"
            )


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    items = {}
    for key, value in tree.items():
        items |= _flat(value, f"{path}.{key}" if path else key)
    return items


def _write_json(file: pathlib.Path, value: Any) -> None:
    """Written beside it and renamed, so that no moment has half of a file."""
    beside = file.with_name(file.name + ".new")
    beside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    beside.replace(file)
