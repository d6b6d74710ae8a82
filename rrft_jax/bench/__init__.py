"""Measurements, one at a time, printed as JSON: `python -m rrft_jax.bench --help`."""
