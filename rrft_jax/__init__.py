"""Fine-tunes Qwen2-VL for visual reasoning in JAX: chain-of-thought SFT, then GRPO."""

__version__ = "0.1.0"
