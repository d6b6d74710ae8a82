"""From files and drawn scenes to batches: examples, what is asked of them, arrays."""

from rrft_jax.data.example import Example, Source
from rrft_jax.data.loader import Batch, Loader, make_loader
from rrft_jax.data.pictures import BadRow, open_image
from rrft_jax.data.prefetch import Prefetch
from rrft_jax.data.processor import Processor, rope_positions
from rrft_jax.data.prompts import PARADIGMS, TASKS, Prompts, messages, read_prompts, target
from rrft_jax.data.readers import SPLITS, find_splits, read_examples
from rrft_jax.data.shapes import Shape, bucket

__all__ = [
    "PARADIGMS",
    "SPLITS",
    "TASKS",
    "BadRow",
    "Batch",
    "Example",
    "Loader",
    "Prefetch",
    "Processor",
    "Prompts",
    "Shape",
    "Source",
    "bucket",
    "find_splits",
    "make_loader",
    "messages",
    "open_image",
    "read_examples",
    "read_prompts",
    "rope_positions",
    "target",
]
