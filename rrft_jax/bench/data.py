"""The speed of the loader beside a bare pool of threads with transformers' image processor."""

import contextlib
import functools
import itertools
import os
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from rrft_jax.assets import TINY
from rrft_jax.data import Batching, Format, Processor, Source, make_loader, read_examples
from rrft_jax.tasks import CUSTOM, Example

_PIXELS = {"shortest_edge": 3136, "longest_edge": 480_000}


def bench_data(samples: int, repeats: int, path: str = "") -> dict:
    """Measure the loader and the bare pool in turns: samples a second, patches a second a worker.

    Args:
      samples: the number of pictures of each size, or of samples of the data set.
      repeats: the number of measured turns, after a warming one.
      path: a data set to read in place of pictures that are made for it.

    Returns:
      For each picture size the medians, the ratio of the loader's speed on parquet to that on
      files, and the ratio of the latter to the pool's. For a data set the loader's speed, and the
      most memory in MiB that the process has held.

    Raises:
      UserError: there is no data set at the path.
    """
    if path:
        examples = read_examples(path, CUSTOM, "train")[:samples]
        ways = {"loader": lambda: _with_loader(examples, epochs=None)}
        (speed,), _ = _speeds(ways, len(examples), repeats)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "samples": len(examples),
            "samples_per_second": round(speed, 1),
            "memory_mib": round(peak / 1024),
        }
    workers = _workers()
    result: dict = {"workers": workers}
    for width, height in ((480, 320), (800, 600)):
        with tempfile.TemporaryDirectory() as folder:
            files = list(_pictures(pathlib.Path(folder), samples, width, height))
            table = _as_parquet(pathlib.Path(folder), files)
            ways = {
                "loader": lambda files=files: _with_loader(files),
                "parquet": lambda table=table: _with_loader(table),
                "pool": lambda files=files: _with_pool(files),
            }
            (loader, parquet, pool), patches = _speeds(ways, samples, repeats)
        result[f"{width}x{height}"] = {
            "samples_per_second": round(loader, 1),
            "patches_per_second_a_worker": round(loader * patches / samples / workers),
            "parquet_samples_per_second": round(parquet, 1),
            "pool_samples_per_second": round(pool, 1),
            "parquet_to_files": round(parquet / loader, 2),
            "loader_to_pool": round(loader / pool, 2),
        }
    return result


def _speeds(
    ways: Mapping[str, Callable[[], int]], samples: int, repeats: int
) -> tuple[list[float], int]:
    """Return the median samples a second of each way, measured in turns; and the patches read."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, read in ways.items():
            started = time.perf_counter()
            patches = read()
            if repeat:  # the first one warms up
                speeds[name].append(samples / (time.perf_counter() - started))
    return [statistics.median(values) for values in speeds.values()], patches


def _with_loader(examples: Sequence[Any], epochs: int | None = 1) -> int:
    """Read all examples by the loader, in a random order; return the patches.

    Without a number of epochs the order is made in small windows, as for training.
    """
    form = Format("reason_rft", targets=False, max_prompt_length=4096, max_target_length=1)
    batching = Batching(16, seed=0, shuffle=True, epochs=epochs)
    loader = make_loader([Source(examples)], _processor(), form, batching)
    with contextlib.closing(loader):
        batches = itertools.islice(loader, -(-len(examples) // batching.batch_size))
        return sum(int((batch.prompt.patch_image >= 0).sum()) for batch in batches)


@functools.cache
def _processor() -> Processor:
    limits = {"min_pixels": _PIXELS["shortest_edge"], "max_pixels": _PIXELS["longest_edge"]}
    return Processor.from_pretrained(TINY, **limits)


def _with_pool(examples: Sequence[Example]) -> int:
    """Read all examples by bare threads; return the number of patches."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    bare = Qwen2VLImageProcessorPil(size=_PIXELS)

    def patches(example: Example) -> int:
        with Image.open(example.images[0]) as image:
            return len(bare(images=[image], return_tensors="np")["pixel_values"])

    with ThreadPoolExecutor(_workers()) as pool:
        return sum(pool.map(patches, examples))


def _workers() -> int:
    return min(16, os.cpu_count() or 1)  # as many as the loader uses


def _as_parquet(folder: pathlib.Path, examples: Sequence[Example]) -> Sequence[Any]:
    """Return the same examples, read from one parquet file with their pictures inside."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "image": {"bytes": pathlib.Path(example.images[0]).read_bytes(), "path": None},
            "problem": example.problem,
            "answer": example.answer,
        }
        for example in examples
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    os.environ["XDG_CACHE_HOME"] = str(folder)  # where it is unpacked
    return read_examples(str(folder / "rows.parquet"), CUSTOM, "train")


def _pictures(folder: pathlib.Path, number: int, width: int, height: int) -> Iterator[Example]:
    """Write JPEG files like photographs, smooth with some noise, and yield an example of each."""
    rng = np.random.default_rng(0)
    for index in range(number):
        coarse = rng.integers(0, 256, (height // 40, width // 40, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (height, width, 3))
        file = folder / f"{index}.jpg"
        Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8)).save(file, quality=90)
        yield Example(f"{index}", (str(file),), "How many?", "1", None, CUSTOM)
