"""Folders as runs leave them, with texts that would break a careless page."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rrft_jax import command, workdir
from rrft_jax.data.thumbnails import Thumbnails, thumbnails
from rrft_jax.evaluation import predictions
from rrft_jax.evaluation.results import Results
from rrft_jax.monitoring import MetricsWriter
from tests.evaluation.files import ours, tagged

STEPS = {"sft": 4, "grpo": 6}
HOSTILE = {
    "script": "</script><script>document.title = 'broken'</script>",
    "open": "</script x='<script '",
    "comment": "<!--<script>document.title = 'broken'</script>",
    "image": "<img src=x onerror=\"document.title = 'broken'\">",
    "turned": "right \u202eot tfel\u202c and\u200b \ufeffnothing",
    "zero": "a\x00b\x07\x1b[31m",
    "surrogate": "half \ud83d of one",
    "mark": "@content@ @script@ {{ }} \\u003c $& \\",
    "long": "x" * 100_000,
}
# Width and height: a point, lines, very wide, very high, usual ones.
SIZES = [(1, 1), (1, 300), (300, 1), (2, 3), (900, 20), (20, 900), (112, 112), (640, 480)]


def write_run(
    folder: Path,
    right: Sequence[int] = (1, 2, 3),
    *,
    texts: Sequence[str] = (),
    sizes: Sequence[tuple[int, int]] = SIZES,
    steps: Sequence[int] = (1, 6),
) -> Path:
    """Write a run of both stages, on as many samples as there are texts and four more.

    Args:
      folder: the run's folder.
      right: how many of the first four samples are right at the start and after each stage.
      texts: further completions, which are wrong.
      sizes: the sizes of the pictures; samples take them in turn.
      steps: the steps of GRPO that kept their completions.
    """
    config, _ = command.parse(["--config=configs/grpo.py"])
    workdir.claim(config, folder, "weights")
    results, kept = Results(folder, STEPS, "id"), Thumbnails(folder)
    pictures = [kept.keep({"pictures": thumbnails([drawn(s, n)])}) for n, s in enumerate(sizes)]
    pictures = [row["pictures"] for row in pictures]
    for row, number in zip(("start", *STEPS), right):
        said = [(str(n), tagged(str(n) if n < number else "9"), str(n)) for n in range(4)]
        said += [(str(4 + n), text, "1") for n, text in enumerate(texts)]
        file = ours(results.predictions(row, "id"), said)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for n, line in enumerate(lines):
            line |= {"pictures": pictures[n % len(sizes)], "finished": n != 3, "problem": f"Q{n}?"}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        entry = predictions.entry(predictions.read(file))
        results.add(row, "id", {**entry, "decoding": "greedy", "skipped": {"picture": 2}})
    metrics, rollouts = (MetricsWriter(folder / f"{n}.jsonl") for n in ("metrics", "rollouts"))
    for stage, last in STEPS.items():
        for step in range(1, last + 1):
            rewards = {"reward": step / last, "reward_accuracy": 0.5, "reward_accuracy_std": 0.1}
            values = {"loss": 1 / step, "seconds_step": 3.0, **(rewards if stage == "grpo" else {})}
            metrics.write(stage, step, values)
    for step in steps:
        for g in range(4):
            rollouts.write("grpo", step, completion(step, g, pictures[step % len(sizes)], texts))
    reason = {"where": "id", "cause": "picture", "reason": HOSTILE["image"]}
    (folder / "skipped.jsonl").write_text(json.dumps(reason) + "\n")
    return folder


def completion(step: int, g: int, pictures: list[str], texts: Sequence[str]) -> dict:
    """Return a row of `rollouts.jsonl`; the groups of odd steps are flat."""
    text = tagged("1") if g == 0 or not texts else texts[g % len(texts)]
    pieces = [text[i : i + 7] for i in range(0, len(text), 7)]
    right = float(g == 0 and step % 2 == 0)
    return {
        "id": f"s{step}",
        "prompt": "<|im_start|>How many?",
        "problem": "How many?",
        "answer": "1",
        "pictures": pictures,
        "completion": text,
        "finished": g != 2,
        "rewards": {"accuracy": right, "format": 1.0} | ({"constructor": 1.0} if g == 1 else {}),
        "reward": 1 + right,
        "advantage": 0.0 if step % 2 else right - 0.25,
        "pieces": pieces,
        "rollout_log_probs": [-0.25] * len(pieces),
        "reference_log_probs": [-0.5] * len(pieces),
    }


def drawn(size: tuple[int, int], seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)
