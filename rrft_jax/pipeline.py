"""The stages of a run, in order: evaluate, SFT, evaluate, GRPO, evaluate, export.

What is done is read off the run's folder, so that the same command goes on where it was stopped:
an evaluation is done when `results.json` has it, a stage of training when its last step is saved.
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections

from rrft_jax.assets import TINY
from rrft_jax.data import BadRow, Loader, Processor, Source, make_loader
from rrft_jax.data.sources import Data
from rrft_jax.errors import UserError
from rrft_jax.evaluation import evaluate as evaluation
from rrft_jax.evaluation import scores, tables
from rrft_jax.models import load_pretrained, save_pretrained
from rrft_jax.models.pretrained import read_config
from rrft_jax.monitoring import MetricsWriter, compilations, interrupts, say
from rrft_jax.parallel.mesh import batch_parts, make_mesh
from rrft_jax.rollout import SamplingParams
from rrft_jax.training import loop
from rrft_jax.training import state as states


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs all stages of a config that `workdir` doesn't have yet.

    A signal ends it after the current step, with everything saved and a line that says so.

    Raises:
      UserError: what was given doesn't fit, before anything is compiled wherever it can be seen.
    """
    jax.config.update("jax_threefry_partitionable", True)  # draws don't depend on the mesh
    compilations.listen()
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
    stages = _Stages(config, workdir, mesh, model, processor, data)
    try:
        stages.run(params)
    except interrupts.Interrupted as place:
        say(f"stopped: {place}; the same command goes on from here")
    finally:
        for loader in stages.test_loaders.values():
            loader.close()


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
class _Stages:
    """The run itself; every method leaves the folder in a state that a resumed run understands."""

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    mesh: jax.sharding.Mesh
    model: Any
    processor: Processor
    data: Data
    # One a split for the whole run, so that its samples are measured once.
    test_loaders: dict[str, Loader] = dataclasses.field(default_factory=dict)

    def run(self, params: dict) -> None:
        config = self.config
        self.evaluate("start", params)
        metrics = MetricsWriter(self.workdir / "metrics.jsonl")
        context = loop.Run(
            config,
            self.model,
            self.processor,
            self.mesh,
            self.workdir,
            metrics,
            self.evaluate,
        )
        for stage in config.stages:
            steps, sources = self._steps(stage), self.data.training[stage]
            say(f"{stage}: {steps} steps on {_samples(sources):,} samples")
            with contextlib.closing(self._loader(sources, stage, stage)) as loader:
                self._describe(stage, loader)
                if stage == "sft":
                    params = loop.train_sft(context, params, loader, steps)
                else:
                    beta = config.grpo.beta
                    reference = jax.tree.map(lambda x: x.copy(), params) if beta else None
                    params = loop.train_grpo(context, params, reference, loader, steps)
                self._note_skipped(stage, loader)
            self.evaluate(stage, params)
        if config.stages:
            save_pretrained(self.workdir / "export", self.model, params)
            say(f"export: {self.workdir / 'export'}")
        print(tables.results_table(self._results()), flush=True)
        self._print_gains()
        rewards = metrics.values("grpo", "reward")
        if len(rewards) > 1:
            first, last, error, steps = scores.trend(rewards)
            print(
                f"grpo, mean reward of its own samples: {first:.3f} in the first {steps} steps, "
                f"{last:.3f} in the last: {last - first:+.3f} ± {error:.3f}"
            )

    def evaluate(self, name: str, params: dict) -> None:
        """Evaluates every split, unless `results.json` has it, and adds it there."""
        config = self.config.eval
        decodings = {"": SamplingParams(config.temperature, config.top_k, config.top_p)}
        if config.sampled:
            decodings["-sampled"] = SamplingParams(1.0, 0, 1.0)
        for split, sources in self.data.splits.items():
            for suffix, sampling in decodings.items():
                results = self._results()
                if split + suffix in results.get(name, {}):
                    continue
                if split not in self.test_loaders:
                    self.test_loaders[split] = self._loader(sources, "eval", split)
                    self._describe(split, self.test_loaders[split])
                loader = self.test_loaders[split]
                beginning = loader.get_state()
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
                    total=_samples(sources),
                )
                entry = scores.summary(values) | {"decoding": evaluation.decoding(sampling)}
                if loader.skipped:
                    entry["skipped"] = dict(loader.skipped)
                loader.set_state(beginning)
                results.setdefault(name, {})[split + suffix] = entry
                _write_json(self.workdir / "results.json", results)
                say(
                    f"{name}: {split}{suffix} {100 * entry['accuracy']:.1f} % "
                    f"(± {100 * entry['standard_error']:.1f}, {entry['decoding']}, "
                    f"{entry['samples']:,} samples)"
                )

    def _describe(self, name: str, loader: Loader) -> None:
        for line in loader.description():
            say(f"{name}: {line}")

    def _note_skipped(self, stage: str, loader: Loader) -> None:
        """Adds what a stage of training left out to `results.json`, beside the evaluations."""
        if not loader.skipped:
            return
        results = self._results()
        seen = loader.used + loader.skipped.total()
        results.setdefault("skipped", {})[stage] = {"seen": seen, "causes": dict(loader.skipped)}
        _write_json(self.workdir / "results.json", results)
        causes = ", ".join(f"{cause} {count}" for cause, count in loader.skipped.items())
        say(
            f"{stage}: skipped {loader.skipped.total():,} of {seen:,} samples seen ({causes}); "
            f"{self.workdir / 'skipped.jsonl'} says which and why"
        )

    def _report(self, name: str) -> Callable[[BadRow], None]:
        """Writes what a loader leaves out to `skipped.jsonl`, each sample once."""
        file = self.workdir / "skipped.jsonl"
        known = set(file.read_text(encoding="utf-8").splitlines()) if file.exists() else set()

        def report(row: BadRow) -> None:
            line = json.dumps(
                {"where": name, "cause": row.cause, "reason": str(row)}, ensure_ascii=False
            )
            if line not in known:
                known.add(line)
                with file.open("a", encoding="utf-8") as out:
                    out.write(line + "\n")

        return report

    def _print_gains(self) -> None:
        """What each stage gained over the one before, on the same samples."""
        for before, after in itertools.pairwise(("start", *self.config.stages)):
            for split in self._results().get(after, {}):
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
        return -(-_samples(self.data.training[stage]) * section.epochs // section.batch_size)

    def _loader(self, sources: Sequence[Source], stage: str, name: str) -> Loader:
        batch_size = self.config[stage].batch_size
        if stage == "eval":  # a small split needs no large batch
            parts = batch_parts(self.mesh)
            batch_size = min(batch_size, -(-_samples(sources) // parts) * parts)
        return stage_loader(
            self.config,
            stage,
            sources,
            self.processor,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            report=self._report(name),
        )


def _samples(sources: Sequence[Source]) -> int:
    return sum(len(source.examples) for source in sources)


def stage_loader(
    config: ml_collections.ConfigDict,
    stage: str,
    sources: Sequence[Source],
    processor: Processor,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    report: Callable[[BadRow], None] = lambda row: None,
) -> Loader:
    """The batches of a stage: "sft" (with targets), "grpo" or "eval" (once through, in order)."""
    return make_loader(
        sources,
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
        max_buckets=config.data.buckets,
        max_skipped_share=config.data.max_skipped_share,
        workers=config.data.workers,
        process_index=process_index,
        process_count=process_count,
        report=report,
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
