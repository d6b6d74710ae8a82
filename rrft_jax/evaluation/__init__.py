"""Measures a model on held-out splits; scores, compares and tabulates what it said.

Importing it brings no JAX along: scores are functions of text.
"""

from rrft_jax.evaluation.scores import score

__all__ = ["score"]
