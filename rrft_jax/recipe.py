"""A run from top to bottom: evaluate, SFT, evaluate, GRPO, evaluate, export, report.

The run's folder says what is done, so that the same command goes on where it was stopped: an
evaluation is done when `results.json` has it, and a stage of training when its last step is saved.
An evaluation or a stage that is half done goes on behind what is on disk.
"""

import contextlib
import pathlib

from rrft_jax import lock
from rrft_jax.data.skipped import SkippedLog
from rrft_jax.data.stages import num_samples, num_steps, stage_loader
from rrft_jax.evaluation.evaluator import Evaluator
from rrft_jax.evaluation.report import report
from rrft_jax.evaluation.results import Results
from rrft_jax.hf import save_pretrained
from rrft_jax.models import VLM
from rrft_jax.monitoring import MetricsWriter, Progress, interrupts, say
from rrft_jax.parallel import distributed
from rrft_jax.prepare import Prepared, prepare
from rrft_jax.settings import Config
from rrft_jax.training.checkpoints import Checkpoints, Damaged, stage_folder
from rrft_jax.training.grpo import GRPO
from rrft_jax.training.sft import SFT
from rrft_jax.training.trainer import Trainer
from rrft_jax.workdir import EXPORT, EXPORT_BEST

BESIDE_THE_BAR = ("loss", "reward", "kl", "completion_length")


def run(config: Config, workdir: pathlib.Path) -> None:
    """Runs all stages of a config that `workdir` doesn't have yet.

    A signal ends it after the current step, with everything saved and a line that says so.

    Raises:
      UserError: something in the config, the model or the data is wrong, before anything is
        compiled wherever it can be seen; or another run has the folder.
    """
    workdir = pathlib.Path(workdir)
    with lock.held_by_host0(workdir):
        try:
            run_stages(prepare(config, workdir), workdir)
        except interrupts.Interrupted as place:
            say(f"stopped: {place}; the same command goes on from here")


def run_stages(prepared: Prepared, workdir: pathlib.Path) -> None:
    """Trains, evaluates, exports and reports."""
    config, model, params, processor, data = prepared
    steps = {stage: num_steps(config.stage(stage), data.training[stage]) for stage in config.stages}
    results = Results(workdir, steps, config.best_split or next(iter(data.splits), ""))
    skipped = SkippedLog(workdir / "skipped.jsonl")
    host0 = distributed.is_host0()
    metrics = MetricsWriter(workdir / "metrics.jsonl", writes=host0)
    rollouts = MetricsWriter(workdir / "rollouts.jsonl", writes=host0 and "grpo" in config.stages)
    evaluator = Evaluator(config, model, processor, data.splits, results, skipped)
    with contextlib.closing(evaluator):
        evaluator.evaluate("start", params)
        for stage in config.stages:
            sources, last = data.training[stage], steps[stage]
            say(f"{stage}: {last} steps on {num_samples(sources):,} samples")
            loader = stage_loader(
                config, stage, sources, processor, model.mesh, skipped.report(stage)
            )
            with contextlib.closing(loader):
                for line in loader.description():
                    say(f"{stage}: {line}")
                if stage == "sft":
                    algorithm = SFT(config.sft, model, params, last)
                else:
                    algorithm = GRPO(config, model, processor, params, last)
                trainer = Trainer(algorithm, loader, stage_folder(workdir, stage), last)
                metrics.truncate_after(stage, trainer.done)
                rollouts.truncate_after(stage, trainer.done)
                results.forget_after(stage, trainer.done)
                if _is_evaluated(config, trainer.done, last):  # it may have been interrupted
                    evaluator.evaluate(f"{stage}@{trainer.done}", trainer.state.params)
                with Progress(stage, total=last, start=trainer.done) as progress:
                    for step in trainer.steps():
                        number, due = step.number, _is_evaluated(config, step.number, last)
                        if (number - 1) % config.rollouts_every == 0:
                            for rollout in step.rollouts:
                                rollouts.write(stage, number, rollout)
                        metrics.write(stage, number, step.metrics)
                        trainer.check(step)
                        progress.update(
                            number,
                            {k: step.metrics[k] for k in BESIDE_THE_BAR if k in step.metrics},
                        )
                        stop = distributed.agree(interrupts.requested())
                        if stop or due or number == last or number % config.checkpoint_every == 0:
                            trainer.save(step, results.best_step(stage))
                        if stop and number < last:
                            raise interrupts.Interrupted(f"{stage}, after step {number} of {last}")
                        if due:
                            evaluator.evaluate(f"{stage}@{number}", step.state.params)
                trainer.close()
                results.note_skipped(stage, loader)
            params = trainer.state.params
            step = trainer = algorithm = None  # optimizer and reference make room for what follows
            evaluator.evaluate(stage, params)
    if config.stages:
        save_pretrained(workdir / EXPORT, model, params)
        say(f"export: {workdir / EXPORT}")
        export_best(results, model, params, workdir)
    if host0:
        report(config, results, metrics.values("grpo", "reward"), workdir)


def export_best(results: Results, model: VLM, params: dict, workdir: pathlib.Path) -> None:
    """Says where the better steps lie, and exports that of the last stage; frees `params`."""
    for stage, step in results.better_steps().items():
        folder, last = stage_folder(workdir, stage), results.steps[stage]
        place = folder / str(step)
        if stage == list(results.steps)[-1]:
            try:
                with contextlib.closing(Checkpoints(folder)) as checkpoints:
                    params = checkpoints.restore_params(step, params)
                save_pretrained(workdir / EXPORT_BEST, model, params)
                place = f"{place}, exported to {workdir / EXPORT_BEST}"
            except Damaged as error:
                place = f"{place}, which is not whole and not exported: {error}"
        then, now = (
            100 * results.rows[name][results.deciding]["accuracy"]
            for name in (f"{stage}@{step}", stage)
        )
        say(
            f"{stage}: best on {results.deciding} after step {step} of {last}, "
            f"{then:.1f} % ({now:.1f} % at its end): {place}"
        )


def _is_evaluated(config: Config, number: int, last: int) -> bool:
    """Whether the weights after a step on the way are evaluated."""
    return bool(config.eval_every) and number % config.eval_every == 0 and 0 < number < last
