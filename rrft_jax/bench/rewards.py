"""The time that the rewards of a batch take."""

import os
import statistics
import time

from rrft_jax import rewards
from rrft_jax.tasks import TASKS, Example


def bench_rewards(repeats: int) -> dict:
    """Return the median seconds to score the completions of a batch, once the workers are up."""
    # The reward that judges a task's answers -> the right answer, the right answer in LaTeX.
    answers = {
        "accuracy": ("4", r"$\frac{8}{2}$"),
        "math_accuracy": ("37.5", r"$\frac{75}{2}$"),
        "transformation_full": ("change_size(0, 'small'), change_color(3, 'red')",) * 2,
    }
    result: dict = {"threads": len(os.sched_getaffinity(0))}
    for task, record in TASKS.items():
        answer, formula = next(answers[name] for name in record.rewards if name in answers)
        example = Example("0", (), "", answer, None, task)
        thought = "so the next one is " * 100
        tagged = f"<think>{thought}</think><answer>{answer}</answer>"
        plain = f"{thought} {formula}"
        batches = {
            "1024_of_512": [[f"{tagged[:-9]} {i}</answer>" for i in range(8)]] * 128,
            "112_half_untagged": [[tagged, plain] * 4] * 14,
        }
        for name, groups in batches.items():
            times = []
            for _ in range(repeats + 1):
                began = time.perf_counter()
                for reward in record.rewards:
                    for group in groups:
                        rewards.score(reward, group, example)
                times.append(time.perf_counter() - began)
            result.setdefault(task, {})[name] = round(statistics.median(times[1:]), 3)
    return result | {"failures": rewards.failures()}
