"""A vision-language model as pure functions of (params, inputs)."""

from rrft_jax.models.config import VLMConfig
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.vlm import VLM

__all__ = ["VLM", "Prompt", "VLMConfig"]
