"""The growth of a GRPO step: the exponent of its time between neighbouring sizes of a workload.

An exponent of 1 is linear growth: twice the size takes twice the time. 0 is no growth.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from rrft_jax.bench import workload as workloads
from rrft_jax.bench.grpo import Step, random_advantages
from rrft_jax.bench.workload import SMALL, Workload
from rrft_jax.models import prompt as prompts
from rrft_jax.parallel.mesh import make_mesh

BASE = Workload(
    prompts=2, prompt_tokens=256, rows=16, cols=16, samples=4, new_tokens=32, model=SMALL
)
SIZES = {  # each has the base's size among its sizes
    "samples": (2, 4, 8),
    "prompt_tokens": (128, 256, 512),
    "new_tokens": (16, 32, 64),
    "prompts": (1, 2, 4),
    "patches": (128, 256, 512),
}
FORMS = ("shared", "repeated")
PARTS = ("generate", "reference", "update", "update_temporaries")


def bench_growth(repeats: int, base: Workload = BASE, sizes: dict | None = None) -> dict:
    """Measure steps of many sizes, in the shared and in the repeated form.

    In the repeated form every prompt and picture is repeated for each of its completions. The
    temporaries of the update are those of its compiled program.

    Args:
      repeats: the number of measured steps of each size.
      base: the workload whose sizes change, one at a time.
      sizes: axis -> its sizes, from small to large; None takes `SIZES`.

    Returns:
      {"exponents": {axis: {part: {form: [one for each pair of neighbours]}}}, "sizes": ...,
      "measured": seconds and bytes in place of the exponents, "device": ...}
    """
    sizes, known, measured, exponents = sizes or SIZES, {}, {}, {}
    for axis, values in sizes.items():
        for form in FORMS:
            for value in values:
                workload = resized(base, axis, value)
                if (workload, form) not in known:
                    known[workload, form] = measure(workload, form == "repeated", repeats)
        measured[axis] = {
            part: {
                form: [known[resized(base, axis, value), form][part] for value in values]
                for form in FORMS
            }
            for part in PARTS
        }
        exponents[axis] = {
            part: {form: neighbours(values, of_form) for form, of_form in forms.items()}
            for part, forms in measured[axis].items()
        }
    return {
        "exponents": exponents,
        "sizes": {axis: list(values) for axis, values in sizes.items()},
        "measured": measured,
        "device": jax.devices()[0].device_kind,
    }


def resized(workload: Workload, axis: str, value: int) -> Workload:
    """Return the workload with another size on one axis; "patches" changes a picture's columns."""
    if axis == "patches":
        axis, value = "cols", value // workload.rows
    return dataclasses.replace(workload, **{axis: value})


def neighbours(sizes: Sequence[int], values: Sequence[float]) -> list[float]:
    """Return the exponent between each size and the next one."""
    return [
        round(math.log(after / before) / math.log(larger / smaller), 2)
        for smaller, larger, before, after in zip(sizes, sizes[1:], values, values[1:])
    ]


def measure(workload: Workload, repeat: bool, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step's parts, and the bytes of the update's temporaries.

    Args:
      workload: the shapes of a step.
      repeat: repeats every prompt and picture for each of its completions.
      repeats: the number of measured steps.
    """
    model, params, prompt = workloads.start(workload, None, make_mesh())
    advantages = random_advantages((workload.prompts, workload.samples))
    samples = workload.samples
    if repeat:
        prompt = jax.tree.map(
            lambda axes, x: np.repeat(x, samples, axes.index("B")), prompts.AXES, prompt
        )
        advantages, samples = advantages.reshape(-1, 1), 1
    step = Step(model, params, samples, workload.new_tokens, micro_batches=1)
    medians = step.medians(prompt, advantages, repeats)
    temporaries = step.compiled_update.memory_analysis().temp_size_in_bytes
    return {name: float(f"{x:.3g}") for name, x in medians.items()} | {
        "update_temporaries": temporaries
    }
