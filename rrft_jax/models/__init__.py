"""Qwen2-VL in Flax: pure functions of (params, inputs), and Hugging Face folders in and out."""

from rrft_jax.models.config import VLMConfig
from rrft_jax.models.pretrained import load_pretrained, save_pretrained
from rrft_jax.models.prompt import Prompt
from rrft_jax.models.qwen2_vl import VLM

__all__ = ["Prompt", "VLM", "VLMConfig", "load_pretrained", "save_pretrained"]
