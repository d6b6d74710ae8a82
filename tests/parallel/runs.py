"""Whole runs of the smallest model in several processes, for tests."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax

from rrft_jax.assets import TINY
from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.hf import load_pretrained, save_pretrained
from rrft_jax.hf.pretrained import read_config
from rrft_jax.tasks.drawings import counting
from tests.short import QUICK

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    f"--config={ROOT}/configs/grpo.py",
    "--config.mesh.data=2",
    "--config.mesh.fsdp=2",
    "--config.sft.steps=2",
    "--config.sft.batch_size=4",
    "--config.sft.warmup_steps=1",
    "--config.sft.learning_rate=1e-4",
    "--config.grpo.steps=3",
    "--config.grpo.batch_size=4",
    "--config.grpo.num_generations=2",
    "--config.grpo.dynamic_sampling=3",
    "--config.grpo.kl_in=reward",
    "--config.grpo.advantages=batch_std",
    "--config.grpo.learning_rate=1e-4",
    "--config.grpo.rewards.repetition=1.0",
    "--config.sampling.max_new_tokens=8",
    "--config.eval.batch_size=4",
    "--config.eval.temperature=1.0",
    "--config.eval.passes=2",
    "--config.eval.max_new_tokens=8",
    "--config.eval.sampled=False",
    "--config.data.activation_samples=16",
    "--config.checkpoint_every=1",
    "--config.rollouts_every=1",
]


def write_model(folder: Path) -> Path:
    """The first layer of the packaged model's towers, as a checkpoint of its own."""
    model, params = load_pretrained(TINY)
    folder.mkdir()
    for file in TINY.iterdir():
        if file.suffix in (".json", ".jinja"):
            (folder / file.name).write_text(file.read_text())
    raw = json.loads((folder / "config.json").read_text())
    raw["num_hidden_layers"] = raw["vision_config"]["depth"] = 1
    (folder / "config.json").write_text(json.dumps(raw))
    params["language"]["layers"], params["vision"]["blocks"] = (
        jax.tree.map(lambda x: x[:1], tower)
        for tower in (params["language"]["layers"], params["vision"]["blocks"])
    )
    model = dataclasses.replace(model, config=read_config(folder)[0])
    save_pretrained(folder, model, params, source=folder)
    return folder


def write_data(folder: Path) -> Path:
    """40 questions to train on, every ninth picture broken; 7 to evaluate, one of them broken."""
    (folder / "images").mkdir(parents=True)
    for name, rows, broken in (("train-cot", 40, 9), ("id-test", 7, 5)):
        data = []
        for i in range(rows):
            example = counting.sample("train" if rows > 7 else "id", 0, i, TINY_SIZE)
            file = folder / "images" / f"{name}-{i}.png"
            example.images[0].convert("RGB").save(file)
            if i % broken == 1:
                file.write_bytes(file.read_bytes()[:-60])
            data.append(
                {
                    "id": f"{name}-{i}",
                    "image": file.name,
                    "problem": example.problem,
                    "answer": example.answer,
                    "cot": example.cot,
                }
            )
        (folder / f"Visual-Counting-{name}.json").write_text(json.dumps(data))
    return folder


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(
    number: int,
    devices: int,
    arguments: list[str],
    logs: Path,
    heartbeat: int = 10,
    program: tuple[str, ...] = ("-m", "rrft_jax.main"),
):
    """`number` processes of a run, of `devices` devices each; see `launch`."""
    together = [f"--coordinator=127.0.0.1:{free_port()}", f"--heartbeat_seconds={heartbeat}"]
    own = [f"--num_processes={number}", "--process_id={}"]
    return launch(number, [*program, *arguments, *together, *own], logs, devices)


def launch(
    number: int, program: list[str], logs: Path, devices: int = 1, wrap: tuple[str, ...] = ()
) -> list[subprocess.Popen]:
    """Python processes whose arguments, and what they are wrapped in, have their number for {}.

    What they say goes to files, which no process waits for as it would for a full pipe; they
    compile without optimising, which takes longer than what these models compute.
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {QUICK}",
        "OMP_NUM_THREADS": "1",
    }
    logs.mkdir(parents=True, exist_ok=True)
    processes = []
    for i in range(number):
        with (logs / f"{i}.txt").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [part.replace("{}", str(i)) for part in (*wrap, sys.executable, *program)],
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def said(
    processes: list[subprocess.Popen],
    logs: Path,
    ending: list[subprocess.Popen] | None = None,
    timeout: float = 120,
) -> list[str]:
    """What each of them has said, once those of `ending` (None: all) have ended; ends the rest."""
    deadline = time.monotonic() + timeout
    try:
        for one in processes if ending is None else ending:
            one.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for one in processes:
            one.kill()
            one.wait()
    return [(logs / f"{i}.txt").read_text() for i in range(len(processes))]
