"""The output of a run: numbers as JSON lines, progress and long waits on the console."""

from rrft_jax.monitoring.metrics import MetricsWriter
from rrft_jax.monitoring.progress import Progress, say
from rrft_jax.monitoring.waits import waiting

__all__ = ["MetricsWriter", "Progress", "say", "waiting"]
