"""The time from the start of a process to the end of its first GRPO steps, in parts.

The module is also the program of the process that is measured.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from rrft_jax.errors import UserError

_OPTIONS = ("--config.stages=grpo",)  # without the evaluations and without SFT


def bench_start(config: str, steps: int) -> dict[str, dict]:
    """Time two starts, each in a process of its own. The second finds the programs of the first.

    Args:
      config: a config file and its argument, as a run takes it.
      steps: the number of steps.

    Returns:
      "first" and "second" -> seconds of `imports`, `loading` (weights, data, the first batch),
      `tracing`, `compiling` and `execution` (the rest of the first step), and their sum
      `first_step`; the CPU's seconds until then in all threads (`cpu`); the seconds of each step
      (`steps`); the numbers of `programs` and of those that were `kept`, until the last step.

    Raises:
      UserError: a process failed, which has told why.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {name: _start(folder, config, steps) for name in ("first", "second")}


def _start(folder: str, config: str, steps: int) -> dict:
    told = [f"--config={config}", *_OPTIONS, f"--workdir={folder}/run"]
    told = [repr(time.time()), str(steps), *told]
    process = subprocess.run(
        [sys.executable, "-m", __name__, *told],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled"},
        stdout=subprocess.PIPE,
    )
    if process.returncode:
        raise UserError("the measured process failed; see the lines above")
    return json.loads(process.stdout)


def measure(began: float, steps: int, arguments: Sequence[str]) -> dict:
    """Run the first steps of a run, as `recipe.py` does, and return its times.

    Args:
      began: the time at which the process was started.
      steps: the number of steps.
      arguments: those of a run.
    """
    from rrft_jax import command

    command.quieten()
    config, workdir, *_ = command.read(arguments)
    from rrft_jax import compiled
    from rrft_jax.data.stages import stage_loader
    from rrft_jax.monitoring import compilations
    from rrft_jax.prepare import prepare
    from rrft_jax.training.grpo import GRPO
    from rrft_jax.training.trainer import Trainer
    from rrft_jax.workdir import stage_folder

    imported = time.time()
    compiled.keep_beside(workdir)
    config, model, params, processor, data = prepare(config, workdir)
    loader = stage_loader(config, "grpo", data.training["grpo"], processor, model.mesh, print)
    algorithm = GRPO(config, model, processor, params, steps)
    trainer = Trainer(algorithm, loader, stage_folder(workdir, "grpo"), steps)
    loaded, parts_before = time.time(), compilations.seconds()
    ends = []
    for step in trainer.steps():
        ends.append(time.time())
        if step.number == 1:
            parts, cpu = compilations.seconds(), time.process_time()
    trainer.close()
    loader.close()
    times = {
        "imports": imported - began,
        "loading": loaded - imported - sum(parts_before.values()),
        **parts,
        "execution": ends[0] - loaded - (sum(parts.values()) - sum(parts_before.values())),
        "first_step": ends[0] - began,
        "cpu": cpu,
    }
    return {
        **{name: round(value, 2) for name, value in times.items()},
        "steps": [round(end - start, 2) for start, end in zip([loaded, *ends], ends)],
        "programs": compilations.total(),
        "kept": compilations.kept(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
