"""Fine-tunes Qwen-VL models for visual reasoning in JAX: chain-of-thought SFT, then GRPO."""

__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "load":  # imported when it is used, because it brings JAX along
        from rrft_jax.asking import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
