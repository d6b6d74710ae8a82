"""Measures one thing at a time and prints JSON: `python -m rrft_jax.bench --help`."""
