"""A short GRPO run of the packaged model on this device, beside the same run on the CPU.

It computes in float32, with products at their highest precision. So the first step draws the same
completions on both, but for a rare tie. From then on rounding makes the runs differ a little more
at each step, so the last steps are compared by what they learn.
"""

from collections.abc import Iterator

import jax
import numpy as np

from rrft_jax import settings
from rrft_jax.accelerator import scale
from rrft_jax.accelerator.findings import Finding, at_most, same, told
from rrft_jax.accelerator.scale import Learning
from rrft_jax.assets import TINY
from rrft_jax.data import Batch, Format, Processor, Source, shapes
from rrft_jax.data.batch import make_batch
from rrft_jax.data.drawn import TINY_SIZE, DrawnSource
from rrft_jax.data.samples import Samples
from rrft_jax.hf import load_pretrained
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.tasks import TASKS
from rrft_jax.training.grpo import GRPO

TASK = next(iter(TASKS))
# The base model has never seen the task's tags: to reward them gives a signal from the first step.
REWARDS = {"tags": 1.0}
FIRST = {"reward": 0.02, "completion_length": 0.5, "entropy": 0.01}  # the greatest differences
RELATIVE = {"gradient_norm": 0.02}
LAST = 0.2  # the greatest difference of the mean reward of the last steps


def check() -> Iterator[Finding]:
    """Yield the differences of the two runs' metrics."""
    sizes = scale.here().learning
    jax.config.update("jax_default_matmul_precision", "highest")  # for all threads
    device = cpu = _run(sizes, jax.devices()[0])
    if jax.default_backend() != "cpu":  # a CPU has nothing to be compared with
        cpu = _run(sizes, jax.devices("cpu")[0])
    for name, bound in FIRST.items():
        yield at_most(f"step 1, difference of {name}", _gap(device, cpu, name), bound)
    for name, bound in RELATIVE.items():
        gap = _gap(device, cpu, name) / cpu[0][name]
        yield at_most(f"step 1, relative difference of {name}", gap, bound)
    finite = all(step["finite_weights"] for step in device)
    yield same("weights stay finite", str(finite), "True")
    for number, (own, other) in enumerate(zip(device, cpu), 1):
        yield told(f"step {number}, reward", own["reward"])
        yield told(f"step {number}, reward on the CPU", other["reward"])
    last = [np.mean([step["reward"] for step in run[-3:]]) for run in (device, cpu)]
    yield at_most("last steps, difference of the mean reward", abs(last[0] - last[1]), LAST)


def _gap(device: list[dict], cpu: list[dict], name: str) -> float:
    """Return the difference of a metric in the first step."""
    return abs(float(device[0][name]) - float(cpu[0][name]))


def _run(sizes: Learning, device: jax.Device) -> list[dict]:
    """Return the metrics of each step of a run on one device."""
    config = settings.make(
        {
            "stages": ("grpo",),
            "model": {"compute_dtype": "float32", "remat": "none"},
            "sampling": {
                "temperature": 1.0,
                "top_k": 0,
                "top_p": 1.0,
                "max_new_tokens": sizes.new_tokens,
            },
            "grpo": {
                "batch_size": sizes.prompts,
                "num_generations": sizes.samples,
                "micro_batches": 1,
                "learning_rate": 2e-4,
                "rewards": REWARDS,
            },
        }
    )
    mesh = make_mesh(devices=[device])
    with jax.default_device(device):
        model, params = load_pretrained(TINY, np.float32, mesh=mesh)
        processor = Processor.from_pretrained(TINY)
        stage = GRPO(config, model, processor, params, sizes.steps)
        batches = ((batch, stage.place(batch)) for batch in _batches(sizes, processor))
        state, metrics = stage.state, []
        for number in range(1, sizes.steps + 1):
            state, of_step, _ = stage.step(state, batches, number)
            metrics.append(of_step)
    return metrics


def _batches(sizes: Learning, processor: Processor) -> Iterator[Batch]:
    """Yield the batches of drawn samples, all of one shape."""
    number = sizes.steps * sizes.prompts
    examples = DrawnSource(TASK, "train", 0, 0, number, TINY_SIZE)
    form = Format("reason_rft", False, max_prompt_length=4096, max_target_length=0)
    samples = Samples([Source(examples)], processor, form, seed=0)
    rows = [samples.load(index) for index in range(number)]
    shape = shapes.union([row.size for row in rows])
    for first in range(0, number, sizes.prompts):
        chosen = rows[first : first + sizes.prompts]
        yield make_batch(samples, chosen, shape, range(sizes.prompts))
