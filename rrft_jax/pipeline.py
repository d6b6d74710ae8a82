"""The stages of a run, in order: evaluate, SFT, evaluate, GRPO, evaluate, export.

What is done is read off the run's folder, so that the same command goes on where it was stopped:
an evaluation is done when `results.json` has it, a stage of training when its last step is saved.
What is half done, an evaluation or a stage, goes on behind what is on disk.
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

from rrft_jax import lock
from rrft_jax.data import Loader, Processor, Source
from rrft_jax.data.skipped import SkippedLog
from rrft_jax.data.sources import Data
from rrft_jax.data.stages import model_folder, num_samples, num_steps, open_processor, stage_loader
from rrft_jax.data.targets import check_targets
from rrft_jax.errors import UserError
from rrft_jax.evaluation import best, paper, predictions, scores, tables
from rrft_jax.evaluation import evaluate as evaluation
from rrft_jax.hf import load_pretrained, save_pretrained
from rrft_jax.hf.pretrained import read_config
from rrft_jax.hf.weights import file_sizes
from rrft_jax.models import layout
from rrft_jax.monitoring import MetricsWriter, compilations, interrupts, say
from rrft_jax.parallel import distributed
from rrft_jax.parallel.mesh import axis_sizes, batch_shards, make_mesh, nearest
from rrft_jax.rollout import SamplingParams
from rrft_jax.runs import EXPORT, EXPORT_BEST, claim, fingerprint, write_json
from rrft_jax.training import loop
from rrft_jax.training import state as states
from rrft_jax.training.checkpoints import Checkpoints, Damaged, stage_folder


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Runs all stages of a config that `workdir` doesn't have yet.

    A signal ends it after the current step, with everything saved and a line that says so.

    Raises:
      UserError: what was given doesn't fit, before anything is compiled wherever it can be seen;
        or another run has the folder.
    """
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        distributed.gather(None)  # from here on it can take long: for the first one JAX has 30 s
        distributed.on_host0(lambda: stack.enter_context(lock.held(workdir)))
        _run(config, workdir)


def _run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    compilations.listen()
    mesh = make_mesh(**axis_sizes(config.mesh))
    _check_batches(config, mesh)
    folder = model_folder(config)
    sizes, _ = read_config(folder)
    layout.check(sizes, mesh)
    data = Data.open(config)
    _check_best_split(config, data)
    check_targets(config, data.training.get("sft", ()))
    processor = open_processor(config)
    for line in layout.summary(sizes, mesh):
        say(line)
    for line in layout.every_parameter(sizes, mesh) if config.mesh.show else ():
        say(line)
    model, params = load_pretrained(
        folder,
        config.model.dtype,
        compute_dtype=config.model.compute_dtype,
        mesh=mesh,
    )
    model = dataclasses.replace(
        model,
        attention=config.model.attention,
        remat=config.model.remat,
        logit_chunk=config.model.logit_chunk,
    )
    say(f"attention: {model.kernels.form}")
    for stage in config.stages:
        states.split(params, config[stage].freeze)
    _warn_about_size(config, params)
    # Only now: a mistake above leaves no folder behind.
    distributed.on_host0(lambda: claim(config, workdir, fingerprint(folder, file_sizes(folder))))
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

    def __post_init__(self):
        self.skipped_log = SkippedLog(self.workdir / "skipped.jsonl")
        # What `results.json` holds, which only the first process reads and writes: a disk that
        # machines share may show another one what was there a while ago.
        self.results: dict[str, Any] = distributed.on_host0(self._read_results)

    def run(self, params: dict) -> None:
        config = self.config
        self.evaluate("start", params)
        metrics = MetricsWriter(self.workdir / "metrics.jsonl", distributed.is_host0())
        context = loop.Run(
            config,
            self.model,
            self.processor,
            self.mesh,
            self.workdir,
            metrics,
            self.evaluate,
            self.best_step,
            self.forget,
        )
        for stage in config.stages:
            steps, sources = self._steps(stage), self.data.training[stage]
            say(f"{stage}: {steps} steps on {num_samples(sources):,} samples")
            with contextlib.closing(self._loader(sources, stage, stage)) as loader:
                self._describe(stage, loader)
                if stage == "sft":
                    params = loop.train_sft(context, params, loader, steps)
                else:
                    beta = config.grpo.beta
                    dtype = config.grpo.reference_dtype
                    reference = states.frozen_copy(self.model, params, dtype) if beta else None
                    params = loop.train_grpo(context, params, reference, loader, steps)
                self._note_skipped(stage, loader)
            self.evaluate(stage, params)
        better = self._better_steps()
        if config.stages:
            save_pretrained(self.workdir / EXPORT, self.model, params)
            say(f"export: {self.workdir / EXPORT}")
            self._export_best(better, params)
        if distributed.is_host0():
            self._print_table(better)
            self._print_gains()
            self._print_trend(metrics.values("grpo", "reward"))

    def _print_trend(self, rewards: Sequence[float]) -> None:
        """Whether what GRPO sampled became better on its way."""
        if len(rewards) >= scores.TREND_VALUES:
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
                if split + suffix in self.results.get(name, {}):
                    continue
                if split not in self.test_loaders:
                    self.test_loaders[split] = self._loader(sources, "eval", split)
                    self._describe(split, self.test_loaders[split])
                loader = self.test_loaders[split]
                beginning = loader.get_state()
                file = self._predictions(name, split + suffix)
                evaluation.evaluate(
                    self.model,
                    params,
                    self.processor,
                    loader,
                    mesh=self.mesh,
                    seed=self.config.seed,
                    sampling=sampling,
                    max_new_tokens=config.max_new_tokens,
                    passes=config.passes,
                    file=file,
                    name=f"{name}: {split}{suffix}",
                    total=num_samples(sources),
                )
                entry = distributed.on_host0(lambda: predictions.entry(predictions.read(file)))  # noqa: B023
                entry["decoding"] = evaluation.decoding(sampling)
                if loader.skipped:
                    entry["skipped"] = dict(loader.skipped)
                loader.set_state(beginning)
                self.results.setdefault(name, {})[split + suffix] = entry
                self._write_results()
                say(
                    f"{name}: {split}{suffix} {100 * entry['accuracy']:.1f} % "
                    f"(± {100 * entry['standard_error']:.1f}, {entry['decoding']}, "
                    f"{entry['samples']:,} samples)"
                )

    def best_step(self, stage: str) -> int | None:
        """The step of a stage with the best evaluation so far, by the split that decides."""
        if not self.data.splits:
            return None
        return best.best_step(self.results, stage, self._steps(stage), self._deciding)

    def forget(self, stage: str, step: int) -> None:
        """Drops the evaluations of a stage past the step from which it goes on: they come again.

        There are some where a damaged checkpoint was left out.
        """
        last = self._steps(stage)
        begun = [folder.name for folder in self.workdir.glob(f"evaluations/{stage}@*")]
        for name in sorted({stage, *self.results, *begun}):
            own, _, number = name.partition("@")
            if own != stage or int(number or last) <= step:
                continue
            if self.results.get(name):
                say(f"{stage}: the evaluation {name} is done again")
                self.results[name] = {}  # it keeps its place
                self._write_results()
            if distributed.is_host0():
                whole = self._predictions(name, "*")
                for file in whole.parent.glob(f"{whole.name}.partial"):
                    file.unlink()

    @property
    def _deciding(self) -> str:
        return self.config.best_split or next(iter(self.data.splits))

    def _better_steps(self) -> dict[str, int]:
        """Stage -> its best step, of the stages whose last step is not their best."""
        steps = {stage: self.best_step(stage) for stage in self.config.stages}
        return {stage: n for stage, n in steps.items() if n is not None and n < self._steps(stage)}

    def _export_best(self, better: dict[str, int], params: dict) -> None:
        """Says where the better steps lie, and exports that of the last stage; frees `params`."""
        for stage, step in better.items():
            folder = stage_folder(self.workdir, stage)
            then, last = (
                100 * self.results[name][self._deciding]["accuracy"]
                for name in (f"{stage}@{step}", stage)
            )
            place = folder / str(step)
            if stage == self.config.stages[-1]:
                try:
                    with contextlib.closing(Checkpoints(folder)) as checkpoints:
                        params = checkpoints.restore_params(step, params)
                    save_pretrained(self.workdir / EXPORT_BEST, self.model, params)
                    place = f"{place}, exported to {self.workdir / EXPORT_BEST}"
                except Damaged as error:
                    place = f"{place}, which is not whole and not exported: {error}"
            say(
                f"{stage}: best on {self._deciding} after step {step} of {self._steps(stage)}, "
                f"{then:.1f} % ({last:.1f} % at its end): {place}"
            )

    def _print_table(self, better: dict[str, int]) -> None:
        """The results on the console, and in `table.md`, beside the paper's where it has any."""
        config, results = self.config, best.final_rows(self.results, better)
        splits = list(dict.fromkeys(split for row in results.values() for split in row))
        reported = {}
        if config.data.path or config.data.source:  # the paper has nothing on what we draw
            reported = paper.cells(config.model.name, config.task, splits)
        parts = [tables.results_table(results, reported), tables.parts_table(results)]
        text = "\n\n".join(filter(None, parts))
        (self.workdir / "table.md").write_text(text + "\n", encoding="utf-8")
        print(text, flush=True)

    def _describe(self, name: str, loader: Loader) -> None:
        for line in loader.description():
            say(f"{name}: {line}")

    def _note_skipped(self, stage: str, loader: Loader) -> None:
        """Adds what a stage of training left out to `results.json`, beside the evaluations."""
        if not loader.skipped:
            return
        seen = loader.used + loader.skipped.total()
        skipped = self.results.setdefault("skipped", {})
        skipped[stage] = {"seen": seen, "causes": dict(loader.skipped)}
        self._write_results()
        causes = ", ".join(f"{cause} {count}" for cause, count in loader.skipped.items())
        say(
            f"{stage}: skipped {loader.skipped.total():,} of {seen:,} samples seen ({causes}); "
            f"{self.workdir / 'skipped.jsonl'} says which and why"
        )

    def _print_gains(self) -> None:
        """What each stage gained over the one before, on the same samples."""
        for before, after in itertools.pairwise(("start", *self.config.stages)):
            for split in self.results.get(after, {}):
                old, new = (self._scores(name, split) for name in (before, after))
                if old.keys() == new.keys():
                    gain, error = scores.paired_gain(list(old.values()), [new[i] for i in old])
                    print(
                        f"{before} -> {after}, {split}: {100 * gain:+.1f} ± {100 * error:.1f} "
                        "points (paired)"
                    )

    def _scores(self, name: str, split: str) -> dict[str, float]:
        return predictions.sample_scores(predictions.read(self._predictions(name, split)))

    def _predictions(self, name: str, split: str) -> pathlib.Path:
        """The file of an evaluation: the last stage's is in the run's folder itself."""
        last = self.config.stages[-1] if self.config.stages else "start"
        folder = self.workdir if name == last else self.workdir / "evaluations" / name
        return folder / f"predictions-{split.replace('/', '-')}.jsonl"

    def _read_results(self) -> dict[str, Any]:
        file = self.workdir / "results.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def _write_results(self) -> None:
        if distributed.is_host0():
            write_json(self.workdir / "results.json", self.results)

    def _steps(self, stage: str) -> int:
        return num_steps(self.config, stage, self.data.training[stage])

    def _loader(self, sources: Sequence[Source], stage: str, name: str) -> Loader:
        report = self.skipped_log.report(name)
        return stage_loader(self.config, stage, sources, self.processor, self.mesh, report)


def _check_batches(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> None:
    parts = batch_shards(mesh)
    for stage in config.stages:
        section = config[stage]
        micro_batches = section.get("micro_batches", 0) or 1
        multiple = parts * section.get("mini_batches", 1) * micro_batches
        if section.batch_size % multiple:
            near = nearest(
                section.batch_size,
                section.batch_size + multiple,
                lambda n: n % multiple == 0,  # noqa: B023
            )
            raise UserError(
                f"{stage}.batch_size={section.batch_size}: expected a multiple of {multiple} "
                f"(mesh.data x mesh.fsdp x mini_batches x micro_batches), such as {near}"
            )


def _check_best_split(config: ml_collections.ConfigDict, data: Data) -> None:
    """Raises UserError unless `best_split` is evaluated, or left to the first split."""
    suffixes = ("", "-sampled") if config.eval.sampled else ("",)
    names = [split + suffix for split in data.splits for suffix in suffixes]
    if config.best_split and config.best_split not in names:
        raise UserError(
            f"--config.best_split={config.best_split}: expected one of {', '.join(names) or 'none'}"
        )
