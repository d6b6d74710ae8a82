"""A config -> the processor of its checkpoint, and the batches of each of its stages."""

from collections.abc import Callable, Sequence

import jax

from rrft_jax.assets import TINY
from rrft_jax.data.loader import Loader, Reading, make_loader
from rrft_jax.data.order import Batching
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.processor import Processor
from rrft_jax.data.samples import Format, Source
from rrft_jax.errors import UserError
from rrft_jax.hf.kinds import checkpoint
from rrft_jax.hf.pretrained import read_config
from rrft_jax.hf.storage import Path
from rrft_jax.models.families import title
from rrft_jax.parallel import sharding
from rrft_jax.parallel.mesh import batch_shards
from rrft_jax.settings import Config, DataSettings, ModelSettings, StageSettings


def model_folder(model: ModelSettings) -> Path:
    """Return the checkpoint folder that a config starts from; it may be the export of a run."""
    if model.path:
        return checkpoint(model.path)
    if model.name == "tiny":
        return TINY
    raise UserError(
        f"model.path is empty: give the folder of a {title(model.name)} checkpoint, or "
        "of a run that trained one, --config.model.path=DIR"
    )


def open_processor(model: ModelSettings, data: DataSettings) -> Processor:
    """Return the processor of the checkpoint that a config starts from."""
    folder = model_folder(model)
    read_config(folder)  # first, because its errors tell what kind of folder this is
    return Processor.from_pretrained(folder, min_pixels=data.min_pixels, max_pixels=data.max_pixels)


def num_samples(sources: Sequence[Source]) -> int:
    """Return the number of samples that several sources have together."""
    return sum(len(source.examples) for source in sources)


def num_steps(stage: StageSettings, samples: int) -> int:
    """Return the number of steps of a training stage, from its `steps` or its `epochs`."""
    return stage.steps or -(-samples * stage.epochs // stage.batch_size)


def stage_loader(
    config: Config,
    stage: str,
    sources: Sequence[Source],
    processor: Processor,
    mesh: jax.sharding.Mesh | None = None,
    report: Callable[[BadSample], None] = lambda row: None,
) -> Loader:
    """Return the batches of a stage.

    Args:
      config: the run's config.
      stage: "sft" (with targets), "grpo" or "eval" (once through, in order).
      sources: the samples.
      processor: the processor of the checkpoint.
      mesh: the devices that the batches go to: they decide which rows this process reads, and the
        size of an evaluation's batches. Without a mesh a batch is one row, to look at.
      report: is called with every sample that is left out.
    """
    batch_size = _batch_size(config, stage, sources, mesh) if mesh else 1
    batching = Batching(
        batch_size=batch_size,
        seed=config.seed,
        shuffle=stage != "eval",
        epochs=1 if stage == "eval" else None,
        max_buckets=config.data.buckets,
    )
    reading = Reading(
        workers=config.data.workers,
        row_ids=sharding.local_rows(mesh, batch_size) if mesh else None,
        report=report,
        max_skipped_share=config.data.max_skipped_share,
    )
    return make_loader(sources, processor, stage_format(config, stage), batching, reading)


def stage_format(config: Config, stage: str) -> Format:
    """Return how the samples of a stage become prompts and targets."""
    return Format(
        paradigm=config.paradigm,
        targets=stage == "sft",
        max_prompt_length=config.data.max_prompt_length,
        max_target_length=config.data.max_target_length,
        thought_dropout=config.data.thought_dropout,
    )


def _batch_size(
    config: Config,
    stage: str,
    sources: Sequence[Source],
    mesh: jax.sharding.Mesh,
) -> int:
    if stage != "eval":
        return config.stage(stage).batch_size
    # A small split needs no large batch, and no result depends on the size.
    parts = batch_shards(mesh)
    return -(-min(config.eval.batch_size, num_samples(sources)) // parts) * parts
