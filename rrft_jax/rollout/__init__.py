"""Sampling of completions, many a prompt."""

from rrft_jax.rollout.sampler import Completions, generate
from rrft_jax.rollout.sampling import SamplingParams

__all__ = ["Completions", "SamplingParams", "generate"]
