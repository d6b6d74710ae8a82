"""Sampling of completions, many per prompt."""

from rrft_jax.rollout.generation import GenerationConfig, generate
from rrft_jax.rollout.rollouts import Rollouts
from rrft_jax.rollout.sampling import SamplingParams

__all__ = ["GenerationConfig", "Rollouts", "SamplingParams", "generate"]
