"""Measures one thing at a time and prints JSON.

    python -m rrft_jax.bench grpo --preset=hf_baseline [--checkpoint=DIR] [--repeats=5]
    python -m rrft_jax.bench data [--samples=128] [--repeats=5]
    python -m rrft_jax.bench rewards [--repeats=5]

`grpo` times the three parts of a GRPO step on random pictures: `generate` (sampling, no early
end), `reference` (log-probabilities without gradient) and `update` (log-probabilities, penalty,
backward pass, AdamW), medians in seconds after one warming run, and `step`, their sum.

`data` reads picture files of two sizes through the loader, and, in turns with it, through a bare
pool of as many threads that does nothing but open them and call transformers' PIL image processor.

`rewards` scores, for each task and its usual rewards, 1,024 completions of 512 words and signs in
groups of 8, and a batch of 112, half of them without tags and with a formula, so that math-verify
has to read them: median seconds once the workers are up.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import ml_collections
import numpy as np
from PIL import Image

from rrft_jax import rewards
from rrft_jax.assets import TINY
from rrft_jax.data import Example, Processor, Source, make_loader
from rrft_jax.errors import UserError
from rrft_jax.models import Qwen2VL, load_pretrained
from rrft_jax.models.config import Qwen2VLConfig, TextConfig, VisionConfig
from rrft_jax.models.prompt import Prompt
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import make_mesh
from rrft_jax.rollout import generate
from rrft_jax.training import grpo, objectives
from rrft_jax.training import optimizer as optimizers
from rrft_jax.training import state as states


@dataclasses.dataclass(frozen=True)
class Workload:
    """A step's shapes: B prompts of P tokens, each with a picture of rows x cols patches."""

    prompts: int
    prompt_tokens: int
    rows: int
    cols: int
    samples: int
    new_tokens: int
    model: Qwen2VLConfig

    @property
    def visual_tokens(self) -> int:
        return self.rows * self.cols // self.model.vision.merge_size**2


SMALL = Qwen2VLConfig(  # 4.8 M parameters
    vision=VisionConfig(depth=4, width=128, heads=4, mlp_width=512, out_width=256),
    text=TextConfig(
        vocab_size=2048,
        width=256,
        depth=4,
        heads=4,
        kv_heads=2,
        mlp_width=688,
        rope_theta=1e6,
        mrope_sections=(8, 12, 12),
        norm_eps=1e-5,
        tied=True,
    ),
    image_token=6,
    video_token=7,
    vision_start_token=3,
    vision_end_token=4,
)
# 4 prompts, each with a 480 x 320 picture, times 8 samples of 64 tokens, float32.
PRESETS = {"hf_baseline": Workload(4, 293, 22, 34, 8, 64, SMALL)}
STEP = dict(
    learning_rate=1e-6,
    schedule="linear",
    warmup_steps=0,
    weight_decay=0.0,
    clip_norm=1.0,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    freeze="",
    micro_batches=1,
    beta=0.04,
    clip_low=0.2,
    clip_high=0.2,
)


def bench_grpo(workload: Workload, checkpoint: str | None, repeats: int) -> dict:
    """Times `repeats` GRPO steps; see the module's docstring."""
    mesh = make_mesh()
    if checkpoint:
        model, params = load_pretrained(checkpoint, np.float32, mesh=mesh)
        workload = dataclasses.replace(workload, model=model.config)
    else:
        model = Qwen2VL(workload.model)
        params = jax.device_put(model.init(jax.random.key(0)), sharding.replicated(mesh))
    prompt = jax.device_put(_random_prompt(workload), sharding.replicated(mesh))
    config = ml_collections.ConfigDict(STEP)
    optimizer = optimizers.make_optimizer(config, 1000)
    reference = jax.tree.map(lambda x: x.copy(), params)
    state = states.create(params, optimizer, "", mesh)
    score = grpo.make_scorer(model, 1)
    update = grpo.make_step(model, optimizer, config, states.layout(state))
    random = np.random.default_rng(0).random((workload.prompts, workload.samples))
    advantages = np.asarray(objectives.group_advantages(random), np.float32)
    times: dict[str, list[float]] = {"generate": [], "reference": [], "update": []}
    for repeat in range(repeats + 1):
        clock = [time.perf_counter()]
        completions = generate(
            model,
            state.params,
            prompt,
            jax.random.key(repeat),
            num_samples=workload.samples,
            max_new_tokens=workload.new_tokens,
            stop_tokens=(),
        )
        jax.block_until_ready(completions)
        clock.append(time.perf_counter())
        log_probs = jax.block_until_ready(score(reference, prompt, completions.tokens))
        clock.append(time.perf_counter())
        batch = grpo.GRPOBatch(
            prompt, completions.tokens, completions.mask, advantages, None, log_probs
        )
        state, metrics = update(state, batch)
        jax.block_until_ready((state, metrics))
        clock.append(time.perf_counter())
        if repeat:  # the first one compiles
            for values, seconds in zip(times.values(), np.diff(clock)):
                values.append(float(seconds))
    medians = {name: round(statistics.median(values), 3) for name, values in times.items()}
    return {
        **medians,
        "step": round(sum(medians.values()), 3),
        "prompt_tokens": workload.prompt_tokens,
        "threads": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }


def bench_data(samples: int, repeats: int) -> dict:
    """Samples and patches a second, in all and a worker, of the loader and of the bare pool."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    workers = min(16, os.cpu_count() or 1)  # as many as the loader takes
    limits = {"shortest_edge": 3136, "longest_edge": 480_000}
    bare = Qwen2VLImageProcessorPil(size=limits)
    processor = Processor.from_pretrained(TINY, min_pixels=3136, max_pixels=480_000)

    def with_loader(examples: list[Example]) -> int:
        loader = make_loader(
            [Source(examples)],
            processor,
            paradigm="reason_rft",
            batch_size=16,
            seed=0,
            shuffle=False,
            epochs=1,
            targets=False,
            max_prompt_length=4096,
            max_target_length=1,
        )
        with contextlib.closing(loader):
            return sum(int((batch.prompt.patch_image >= 0).sum()) for batch in loader)

    def with_pool(examples: list[Example]) -> int:
        def patches(example: Example) -> int:
            with Image.open(example.images[0]) as image:
                return len(bare(images=[image], return_tensors="np")["pixel_values"])

        with ThreadPoolExecutor(workers) as pool:
            return sum(pool.map(patches, examples))

    result: dict = {"workers": workers}
    for width, height in ((480, 320), (800, 600)):
        with tempfile.TemporaryDirectory() as folder:
            examples = list(_pictures(pathlib.Path(folder), samples, width, height))
            speeds: dict[str, list[float]] = {"loader": [], "pool": []}
            for repeat in range(repeats + 1):
                for name, read in (("loader", with_loader), ("pool", with_pool)):
                    started = time.perf_counter()
                    patches = read(examples)
                    if repeat:  # the first one warms up
                        speeds[name].append(samples / (time.perf_counter() - started))
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        result[f"{width}x{height}"] = {
            "samples_per_second": round(medians["loader"], 1),
            "patches_per_second_a_worker": round(medians["loader"] * patches / samples / workers),
            "pool_samples_per_second": round(medians["pool"], 1),
            "loader_to_pool": round(medians["loader"] / medians["pool"], 2),
        }
    return result


def bench_rewards(repeats: int) -> dict:
    """Seconds to score completions; see the module's docstring."""
    answers = {
        "visual_counting": ("4", r"$\frac{8}{2}$"),
        "structure_perception": ("37.5", r"$\frac{75}{2}$"),
        "spatial_transformation": ("change_size(0, 'small'), change_color(3, 'red')",) * 2,
    }
    result: dict = {"threads": len(os.sched_getaffinity(0))}
    for task, (answer, formula) in answers.items():
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
                for reward in rewards.DEFAULTS[task]:
                    for group in groups:
                        rewards.score(reward, group, example)
                times.append(time.perf_counter() - began)
            result.setdefault(task, {})[name] = round(statistics.median(times[1:]), 3)
    return result | {"failures": rewards.failures()}


def _pictures(folder: pathlib.Path, number: int, width: int, height: int) -> Iterator[Example]:
    """Writes photograph-like JPEG files: smooth, with some noise."""
    rng = np.random.default_rng(0)
    for index in range(number):
        coarse = rng.integers(0, 256, (height // 40, width // 40, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (height, width, 3))
        file = folder / f"{index}.jpg"
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(file, quality=90)
        yield Example(f"{index}", (str(file),), "How many?", "1", None, "visual_counting")


def _random_prompt(workload: Workload) -> Prompt:
    rng, config = np.random.default_rng(0), workload.model
    batch, length = workload.prompts, workload.prompt_tokens
    patches = workload.rows * workload.cols
    tokens = rng.integers(10, min(600, config.text.vocab_size), (batch, length))
    tokens[:, 4 : 4 + workload.visual_tokens] = config.image_token
    rows_cols = np.stack(np.meshgrid(range(workload.rows), range(workload.cols), indexing="ij"), -1)
    return Prompt(
        tokens=tokens.astype(np.int32),
        mask=np.ones((batch, length), bool),
        positions=np.broadcast_to(np.arange(length, dtype=np.int32), (3, batch, length)),
        next_position=np.full(batch, length, np.int32),
        patches=rng.normal(size=(batch, patches, config.vision.patch_values)).astype(np.float32),
        patch_rows_cols=np.broadcast_to(rows_cols.reshape(-1, 2), (batch, patches, 2)),
        patch_image=np.zeros((batch, patches), np.int32),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rrft_jax.bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("grpo", help="the three parts of a GRPO step")
    command.add_argument("--preset", choices=PRESETS, default="hf_baseline")
    command.add_argument("--checkpoint", help="a Qwen2-VL folder instead of random weights")
    command.add_argument("--repeats", type=int, default=5)
    command = commands.add_parser("data", help="the loader, beside transformers' image processor")
    command.add_argument("--samples", type=int, default=128)
    command.add_argument("--repeats", type=int, default=5)
    command = commands.add_parser("rewards", help="what a batch's rewards take")
    command.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    try:
        if args.command == "rewards":
            result = bench_rewards(args.repeats)
        elif args.command == "data":
            result = bench_data(args.samples, args.repeats)
        else:
            result = bench_grpo(PRESETS[args.preset], args.checkpoint, args.repeats)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
