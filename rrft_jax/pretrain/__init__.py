"""Builds the tiny base checkpoint: a 1.5 M Qwen2-VL that perceives drawn pictures, and no more.

    python -m rrft_jax.pretrain --out=rrft_jax/assets/tiny

A released Qwen2-VL comes pretrained too; without that, reinforcement has nothing to choose from.
What the base learns is in `lessons.py`: to name what a picture shows, to look things up in it, to
compare, to add. It never sees a chain of thought, the <think> tags, or a picture of the splits that
training and evaluation draw.
"""
