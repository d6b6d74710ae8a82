"""The output of a run: numbers as JSON lines, progress on the console."""

from rrft_jax.monitoring.metrics import MetricsWriter
from rrft_jax.monitoring.progress import Progress, say

__all__ = ["MetricsWriter", "Progress", "say"]
