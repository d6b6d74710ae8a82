"""The data pipeline: files and drawn scenes become examples, prompts, and batches of arrays."""

from rrft_jax.data.batch import Batch
from rrft_jax.data.loader import Loader, Reading, make_loader
from rrft_jax.data.order import Batching
from rrft_jax.data.pictures import BadSample, open_image
from rrft_jax.data.positions import rope_positions
from rrft_jax.data.prefetch import Prefetch
from rrft_jax.data.processor import Processor
from rrft_jax.data.prompts import PARADIGMS, Prompts, messages, read_prompts, target
from rrft_jax.data.readers import find_splits, read_examples
from rrft_jax.data.samples import Format, Source
from rrft_jax.data.shapes import Shape, bucket
from rrft_jax.tasks import SPLITS
from rrft_jax.tasks.example import Example

__all__ = [
    "PARADIGMS",
    "SPLITS",
    "BadSample",
    "Batch",
    "Batching",
    "Example",
    "Format",
    "Loader",
    "Prefetch",
    "Processor",
    "Prompts",
    "Reading",
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
