"""Evaluation on held-out splits: completions, their scores, comparisons and tables.

Importing this package does not import JAX: scores are functions of text.
"""

from rrft_jax.evaluation.scores import score

__all__ = ["score"]
