"""A run that begins at a checkpoint of another run: `--branch_from=RUN[:STEP]`.

The new run's folder gets the checkpoint, and the last ones of the stages before it. Its stage then
resumes there, as after an interruption: with the weights, the optimizer, the number of the
step and the place in the data. From then on the new run is a run like any other. It needs the first
one no more.
"""

import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from rrft_jax.errors import UserError
from rrft_jax.fields import plain
from rrft_jax.settings import Config
from rrft_jax.workdir import differences, read, saved_steps, stage_folder

_POINT = re.compile(r"(?P<run>.+?)(?::(?:(?P<stage>[a-z]+)@)?(?P<step>\d+))?")


class Point(NamedTuple):
    """The argument of `--branch_from`; a part that it leaves out is None."""

    run: pathlib.Path
    stage: str | None
    step: int | None

    @classmethod
    def parse(cls, text: str) -> "Point":
        """Read RUN, RUN:STEP or RUN:STAGE@STEP."""
        found = _POINT.fullmatch(text)
        if found is None:
            raise UserError(f"--branch_from={text}: expected RUN, RUN:STEP or RUN:STAGE@STEP")
        step = None if found["step"] is None else int(found["step"])
        return cls(pathlib.Path(found["run"]).expanduser().absolute(), found["stage"], step)

    def __str__(self) -> str:
        stage = f"{self.stage}@" if self.stage else ""
        return str(self.run) + ("" if self.step is None else f":{stage}{self.step}")


def find(text: str, config: Config, weights: str) -> Point:
    """Return the checkpoint that a run begins at, all of its parts given.

    Args:
      text: the argument of `--branch_from`. Without a step it is the newest one; without a stage
        it is the last stage that has the step.
      config: the config of the new run.
      weights: the fingerprint of the model that it starts from.

    Raises:
      UserError: there is no such run or checkpoint, or the new run can't resume from it.
    """
    point = Point.parse(text)
    theirs = read(point.run)
    saved = saved_steps(point.run, theirs["stages"])
    if not saved:
        raise UserError(f"--branch_from={text}: {point.run} is a run without checkpoints")
    stages = [point.stage] if point.stage else list(saved)
    having = [
        stage
        for stage in stages
        if stage in saved and (point.step is None or point.step in saved[stage])
    ]
    if not having:
        listed = "; ".join(f"{name}: {', '.join(map(str, own))}" for name, own in saved.items())
        raise UserError(
            f"--branch_from={text}: no such checkpoint; {point.run} has those after {listed}"
        )
    stage = having[-1]
    point = point._replace(stage=stage, step=saved[stage][-1] if point.step is None else point.step)
    _check(point, config, weights, theirs)
    return point


def check_steps(point: Point, steps: Mapping[str, int]) -> None:
    """Check that the stages of a new run have the steps that a checkpoint belongs to.

    Args:
      point: the checkpoint.
      steps: the number of steps of each stage of the new run.

    Raises:
      UserError: a stage has other steps.
    """
    where = f"--branch_from={point}"
    stages = read(point.run)["stages"]
    saved = saved_steps(point.run, stages)
    for stage in stages[: stages.index(point.stage)]:
        ended = saved.get(stage, [0])[-1]
        if ended != steps[stage]:
            raise UserError(
                f"{where}: {stage} has {steps[stage]} steps here, and its last checkpoint there is "
                f"after step {ended}; expected the same data and the same {stage}.steps"
            )
    if steps[point.stage] < point.step:
        raise UserError(
            f"{where}: {point.stage} has {steps[point.stage]} steps here; expected {point.step} or "
            f"more, by --config.{point.stage}.steps"
        )


def start(point: Point, workdir: pathlib.Path) -> None:
    """Put the checkpoints that a run begins with beside those of its folder; `finish` follows.

    Between the two, config.json is written. So a folder without one has no checkpoints yet, however
    early the run was stopped. Files are linked if the disk allows it, and copied otherwise.

    Raises:
      UserError: the folder has checkpoints already, or they can't be copied.
    """
    folder, half = _folders(workdir)
    if folder.exists():
        raise UserError(f"{folder}: there already; give another --workdir, or delete that folder")
    shutil.rmtree(half, ignore_errors=True)
    saved = saved_steps(point.run, read(point.run)["stages"])
    stages = list(saved)[: list(saved).index(point.stage)]
    taken = {stage: saved[stage][-1] for stage in stages} | {point.stage: point.step}
    try:
        for stage, step in taken.items():
            source = stage_folder(point.run, stage) / str(step)
            shutil.copytree(source, half / stage / str(step), copy_function=_link)
    except (OSError, shutil.Error) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--branch_from={point}: can't be copied to {folder}: {reason}") from None


def finish(workdir: pathlib.Path) -> None:
    """Give a run that has begun as a branch its first checkpoints, unless it has them."""
    folder, half = _folders(workdir)
    if half.exists() and not folder.exists() and read(workdir).get("branch_from"):
        half.rename(folder)


def check_begun(text: str, workdir: pathlib.Path) -> None:
    """Check that the run in a folder began at the checkpoint that `--branch_from` names again.

    Raises:
      UserError: it began elsewhere.
    """
    recorded = read(workdir).get("branch_from")
    if recorded is None:
        raise UserError(
            f"--branch_from={text}: {workdir} holds a run that began at its own start; give "
            "another --workdir"
        )
    told, began = Point.parse(text), Point.parse(recorded)
    if any(here is not None and here != there for here, there in zip(told, began)):
        raise UserError(
            f"--branch_from={text}: {workdir} holds a run that began at {began}; give another "
            "--workdir, or leave this argument out to resume"
        )


def _check(point: Point, config: Config, weights: str, theirs: Mapping[str, Any]) -> None:
    """Raise UserError unless a run of this config can resume from another config's checkpoint."""
    where = f"--branch_from={point}"
    if theirs.get("weights") not in (None, weights):
        raise UserError(
            f"{where}: that run started from another model; give that one by --config.model.path"
        )
    behind = theirs["stages"][: theirs["stages"].index(point.stage) + 1]
    if list(config.stages[: len(behind)]) != behind:
        raise UserError(
            f"{where}: its stages so far are {', '.join(behind)}, and those of this config "
            f"{', '.join(config.stages) or 'none'}; take a config that begins with the same ones"
        )
    for change in differences(theirs, plain(config)):
        stage = change.key.partition(".")[0]
        what = f"{where}: {change.key} is {change.old!r} there and {change.new!r} here, but"
        if stage == "lora":
            raise UserError(f"{what} the checkpoint is that run's adapter; leave it")
        if change.key == f"{point.stage}.freeze":
            raise UserError(f"{what} the optimizer has a state for each trained weight; leave it")
        if stage == point.stage and change.free is None:
            if config.stage(stage).steps == point.step:
                raise UserError(
                    f"{what} no step of {stage} is left; leave it, or take an earlier step"
                )
        if stage in behind[:-1] and (change.free is None or change.free.only_more):
            raise UserError(
                f"{what} {stage} has ended there; leave it, or branch from a step of {stage}"
            )


def _folders(workdir: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Return the folder of a run's checkpoints, and its name before they are all there."""
    return workdir / "checkpoints", workdir / "checkpoints.partial"


def _link(source: str, target: str) -> None:
    """Link a file, which nothing changes after it was written; copy it to another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
