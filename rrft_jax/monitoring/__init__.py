"""What a run tells: numbers to JSON lines, progress to the console."""

from rrft_jax.monitoring.metrics import MetricsWriter
from rrft_jax.monitoring.progress import Progress, say

__all__ = ["MetricsWriter", "Progress", "say"]
