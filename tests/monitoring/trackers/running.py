"""A run without a model: it writes a run's files while its trackers follow; then it may be killed.

python running.py WORKDIR TRACKERS FIRST LAST KILLED
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from PIL import Image

from rrft_jax.monitoring import MetricsWriter
from rrft_jax.monitoring.trackers.processes import Trackers

STEPS = {"sft": 3, "grpo": 40}
EVERY = 4  # steps between rollouts
HOSTILE = "<img src=x onerror=alert(1)>\n# no title\n\x00 \u202e </script>"


def write(workdir: Path, step: int) -> None:
    """Write what a step of GRPO leaves."""
    rollouts = MetricsWriter(workdir / "rollouts.jsonl")
    for number in range(4 * (step % EVERY == 1)):
        rollouts.write(
            "grpo",
            step,
            {
                "id": f"{number // 2}",
                "prompt": f"question {number // 2} \ud800",
                "answer": "3",
                "pictures": ["pictures/red.png", ""],
                "completion": f"{HOSTILE} {number}",
                "rewards": {"accuracy": number % 2},
                "advantage": number - 1.5,
            },
        )
    values = {"loss": step / 8, "kl": float("nan"), "words": "no number"}
    MetricsWriter(workdir / "metrics.jsonl").write("grpo", step, values)
    results = {"start": {"id": {"accuracy": 0.25, "decoding": "greedy", "rewards": {"format": 1}}}}
    if step > 10:
        results |= {"grpo@10": {"id": {"accuracy": 0.5}}, "skipped": {"grpo": {"seen": 1}}}
    (workdir / "results.json").write_text(json.dumps(results))


def wait_for_content(folder: Path) -> None:
    """Wait until a tracker has written some steps: its process may start slowly."""
    deadline = time.monotonic() + 60
    kinds = ("events.*", "offline-run-*/*.wandb", "*.db")
    while time.monotonic() < deadline:
        files = [file for kind in kinds for file in folder.glob(kind)]
        if any(file.stat().st_size > 1000 for file in files):
            return
        time.sleep(0.05)


def main(workdir: Path, names: str, first: int, last: int, killed: bool) -> None:
    (workdir / "pictures").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), "red").save(workdir / "pictures" / "red.png")
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        MetricsWriter(workdir / name).truncate_after("grpo", first)
    trackers = Trackers(names.split(","), workdir, {"seed": 0, "stages": ["grpo"]}, STEPS)
    for step in range(first + 1, last + 1):
        write(workdir, step)
        time.sleep(0.05)
    if killed:  # all at once, as if the machine had stopped
        for name in names.split(","):
            wait_for_content(workdir / name)
        for process in (*trackers._processes.values(), None):
            os.kill(process.pid if process else os.getpid(), signal.SIGKILL)
    trackers.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
