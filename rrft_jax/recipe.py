"""A run from top to bottom: evaluate, SFT, evaluate, GRPO, evaluate, export, report.

The run's folder records the finished parts, so the same command resumes a stopped run. An
evaluation is finished when `results.json` has it, and a stage of training when its last step is
saved. A half-done evaluation or stage resumes from the state on disk.
"""

import contextlib
import pathlib

from rrft_jax import export, fields, lock
from rrft_jax.data.skipped import SkippedLog
from rrft_jax.data.stages import num_samples, num_steps, stage_loader
from rrft_jax.data.thumbnails import Thumbnails
from rrft_jax.evaluation.evaluator import Evaluator
from rrft_jax.evaluation.results import Results
from rrft_jax.models import VLM
from rrft_jax.monitoring import MetricsWriter, Progress, interrupts, say, waiting
from rrft_jax.monitoring.profiling import Profile
from rrft_jax.monitoring.span import read_span
from rrft_jax.monitoring.summary import Summary
from rrft_jax.monitoring.trackers.processes import Trackers
from rrft_jax.parallel import distributed
from rrft_jax.prepare import Prepared, prepare
from rrft_jax.report.page import NAME as PAGE
from rrft_jax.report.page import Page
from rrft_jax.report.printed import report
from rrft_jax.settings import Config
from rrft_jax.training import tuning
from rrft_jax.training.checkpoints import Checkpoints, Damaged
from rrft_jax.training.grpo import GRPO
from rrft_jax.training.sft import SFT
from rrft_jax.training.trainer import Trainer
from rrft_jax.workdir import EXPORT, EXPORT_BEST, stage_folder


def run(config: Config, workdir: pathlib.Path, branch_from: str | None = None) -> None:
    """Run all stages of a config that are not yet in `workdir`.

    After a signal the run finishes the current step, saves everything, prints a line and returns.
    A new run may begin at a checkpoint of another one, which `branch_from` names.

    Raises:
      UserError: the config, the model or the data has a mistake, or another run has the folder.
        Mistakes that can be seen before a compilation are raised before it.
    """
    workdir = pathlib.Path(workdir)
    with lock.held_by_host0(workdir):
        try:
            run_stages(prepare(config, workdir, branch_from), workdir)
        except interrupts.Interrupted as stop:
            say(f"stopped: {stop}; the same command resumes the run")


def run_stages(prepared: Prepared, workdir: pathlib.Path) -> None:
    """Train, evaluate, export and report."""
    config, model, params, processor, data = prepared
    steps = {
        stage: num_steps(config.stage(stage), num_samples(data.training[stage]))
        for stage in config.stages
    }
    deciding = config.best_split or next(iter(data.splits), "")
    results = Results(workdir, steps, deciding, config.best_metric)
    skipped = SkippedLog(workdir / "skipped.jsonl")
    host0 = distributed.is_host0()
    metrics = MetricsWriter(workdir / "metrics.jsonl", writes=host0)
    rollouts = MetricsWriter(workdir / "rollouts.jsonl", writes=host0 and "grpo" in config.stages)
    thumbnails = Thumbnails(workdir, writes=host0)
    evaluator = Evaluator(config, model, processor, data.splits, results, skipped, thumbnails)
    page = Page(workdir, config, results)
    span = read_span(config.profile, config.stages) if host0 else None
    trackers = Trackers(config.trackers if host0 else (), workdir, fields.plain(config), steps)
    with contextlib.closing(evaluator), contextlib.closing(trackers):
        evaluator.evaluate("start", params)
        page.refresh()
        for stage in config.stages:
            sources, last = data.training[stage], steps[stage]
            say(f"{stage}: {last} steps on {num_samples(sources):,} samples")
            with waiting(f"{stage}: measuring the first samples"):
                loader = stage_loader(
                    config, stage, sources, processor, model.mesh, skipped.report(stage)
                )
                shapes = loader.description()
            with contextlib.closing(loader):
                for line in shapes:
                    say(f"{stage}: {line}")
                if stage == "sft":
                    algorithm = SFT(config, model, params, last)
                else:
                    algorithm = GRPO(config, model, processor, params, last)
                trainer = Trainer(algorithm, loader, stage_folder(workdir, stage), last)
                metrics.truncate_after(stage, trainer.done)
                rollouts.truncate_after(stage, trainer.done)
                results.forget_after(stage, trainer.done)
                # A stopped run may not have finished the evaluation of its last step.
                if _is_evaluated(config, trainer.done, last):
                    evaluator.evaluate(f"{stage}@{trainer.done}", trainer.params)
                summary = Summary()
                done = trainer.done
                with (
                    Progress(stage, total=last, start=done) as progress,
                    Profile(workdir, span, stage, done) as profile,
                ):
                    for step in profile.steps(trainer.steps()):
                        number, due = step.number, _is_evaluated(config, step.number, last)
                        for rollout in step.rollouts:
                            rollouts.write(stage, number, thumbnails.keep(rollout))
                        metrics.write(stage, number, step.metrics)
                        trainer.check(step)
                        progress.update(number, summary(step.metrics))
                        stop = distributed.agree(interrupts.requested())
                        if stop or due or number == last or number % config.checkpoint_every == 0:
                            trainer.save(step, results.best_step(stage))
                        if stop and number < last:
                            raise interrupts.Interrupted(f"{stage}, after step {number} of {last}")
                        if due:
                            evaluator.evaluate(f"{stage}@{number}", trainer.params)
                            page.refresh()
                trainer.close()
                results.note_skipped(stage, loader)
            params = trainer.params
            # Frees the memory of the optimizer and the reference for the next evaluation and stage.
            step = trainer = algorithm = None
            evaluator.evaluate(stage, params)
            page.refresh()
    if config.stages:
        with waiting(f"writing {workdir / EXPORT}"):
            written = export.write(workdir / EXPORT, model, params)
        say(f"export: {' and '.join(map(str, written))}")
        export_best(results, model, params, workdir)
    say(f"report: {workdir / PAGE}")
    if host0:
        report(config, results, metrics.values("grpo", "reward"), workdir)


def export_best(results: Results, model: VLM, params: dict, workdir: pathlib.Path) -> None:
    """Print each stage's best step if it is not the last one, and export that of the last stage.

    The memory of `params` is freed.
    """
    for stage, step in results.better_steps().items():
        folder, last = stage_folder(workdir, stage), results.steps[stage]
        where = str(folder / str(step))
        if stage == list(results.steps)[-1]:
            try:
                with contextlib.closing(Checkpoints(folder)) as checkpoints:
                    base, trained = tuning.split(params)
                    params = {**base, **checkpoints.restore_params(step, trained)}
                export.write(workdir / EXPORT_BEST, model, params)
                where = f"{where}, exported to {workdir / EXPORT_BEST}"
            except Damaged as error:
                where = f"{where}, which is incomplete and is not exported: {error}"
        then, now = (results.deciding_value(name) for name in (f"{stage}@{step}", stage))
        say(
            f"{stage}: best on {results.deciding} after step {step} of {last}, "
            f"{then} ({now} at its end): {where}"
        )


def _is_evaluated(config: Config, number: int, last: int) -> bool:
    """Say whether the weights after an intermediate step are evaluated."""
    return bool(config.eval_every) and number % config.eval_every == 0 and 0 < number < last
