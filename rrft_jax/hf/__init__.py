"""Hugging Face folders: loaded into (model, params), and written from them."""

from rrft_jax.hf.pretrained import load_pretrained, save_pretrained

__all__ = ["load_pretrained", "save_pretrained"]
