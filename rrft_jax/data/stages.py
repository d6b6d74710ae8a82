"""A config -> what each of its stages reads: the checkpoint's processor, the batches."""

from collections.abc import Callable, Sequence

import ml_collections

from rrft_jax.assets import TINY
from rrft_jax.data.example import Source
from rrft_jax.data.loader import Loader, make_loader
from rrft_jax.data.pictures import BadRow
from rrft_jax.data.processor import Processor
from rrft_jax.errors import UserError
from rrft_jax.hf.pretrained import read_config
from rrft_jax.hf.storage import Path
from rrft_jax.runs import checkpoint


def model_folder(config: ml_collections.ConfigDict) -> Path:
    """The checkpoint folder that a config starts from, its own or the export of a run."""
    if config.model.path:
        return checkpoint(config.model.path)
    if config.model.name == "tiny":
        return TINY
    raise UserError(
        f"model.path is empty: give the folder of a Qwen2-VL {config.model.name} checkpoint, or "
        "of a run that trained one, --config.model.path=DIR"
    )


def open_processor(config: ml_collections.ConfigDict) -> Processor:
    """The processor of the checkpoint that a config starts from."""
    folder = model_folder(config)
    read_config(folder)  # before its tokenizer: the message is about what the folder is
    return Processor.from_pretrained(
        folder, min_pixels=config.data.min_pixels, max_pixels=config.data.max_pixels
    )


def stage_loader(
    config: ml_collections.ConfigDict,
    stage: str,
    sources: Sequence[Source],
    processor: Processor,
    *,
    batch_size: int,
    row_ids: Sequence[int] | None = None,
    report: Callable[[BadRow], None] = lambda row: None,
) -> Loader:
    """The batches of a stage: "sft" (with targets), "grpo" or "eval" (once through, in order)."""
    return make_loader(
        sources,
        processor,
        paradigm=config.paradigm,
        batch_size=batch_size,
        seed=config.seed,
        shuffle=stage != "eval",
        epochs=1 if stage == "eval" else None,
        targets=stage == "sft",
        max_prompt_length=config.data.max_prompt_length,
        max_target_length=config.data.max_target_length,
        thought_dropout=config.data.thought_dropout,
        max_buckets=config.data.buckets,
        max_skipped_share=config.data.max_skipped_share,
        workers=config.data.workers,
        row_ids=row_ids,
        report=report,
    )
