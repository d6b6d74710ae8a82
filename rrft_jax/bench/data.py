"""The speed of the loader beside a bare pool of threads with transformers' image processor."""

import contextlib
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from rrft_jax.assets import TINY
from rrft_jax.data import Batching, Format, Processor, Source, make_loader
from rrft_jax.tasks import TASKS, Example


def bench_data(samples: int, repeats: int) -> dict:
    """Measure the loader and the bare pool in turns: samples a second, patches a second a worker.

    Args:
      samples: the number of pictures of each size.
      repeats: the number of measured turns, after a warming one.

    Returns:
      For each picture size the medians, and the ratio of the loader's speed to the pool's.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    workers = min(16, os.cpu_count() or 1)  # as many as the loader uses
    limits = {"shortest_edge": 3136, "longest_edge": 480_000}
    bare = Qwen2VLImageProcessorPil(size=limits)
    processor = Processor.from_pretrained(TINY, min_pixels=3136, max_pixels=480_000)

    form = Format("reason_rft", targets=False, max_prompt_length=4096, max_target_length=1)
    batching = Batching(16, seed=0, shuffle=False, epochs=1)

    def with_loader(examples: list[Example]) -> int:
        loader = make_loader([Source(examples)], processor, form, batching)
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


def _pictures(folder: pathlib.Path, number: int, width: int, height: int) -> Iterator[Example]:
    """Write JPEG files like photographs, smooth with some noise, and yield an example of each."""
    rng = np.random.default_rng(0)
    for index in range(number):
        coarse = rng.integers(0, 256, (height // 40, width // 40, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (height, width, 3))
        file = folder / f"{index}.jpg"
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(file, quality=90)
        yield Example(f"{index}", (str(file),), "How many?", "1", None, next(iter(TASKS)))
