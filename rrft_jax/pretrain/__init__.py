"""Builds the tiny base checkpoint: a 1.5 M Qwen2-VL that perceives drawn pictures, and no more.

    python -m rrft_jax.pretrain --out=rrft_jax/assets/tiny

A released Qwen2-VL comes pretrained too; without that, reinforcement has nothing to choose from.
What the base learns is in `lessons.py`: to name what a picture shows, to look things up in it, to
compare, to add; and in `recall.py`: to look things up in a text. It never sees a chain of thought,
the <think> tags, or a picture of the splits that training and evaluation draw.

The packaged weights have had as many steps of each phase as the command takes, over three hours on
two cores, but not in one go, for the lessons grew meanwhile: 900 and 1,250 steps of "perceive", the
first ones by AdamW alone, then 850 of "answer" with the tower at rest, and 1,600 more; of "recall"
1,050 with repetitions alone, then 800 and 1,000 with lists, and of "review" 700 and 1,200.
"""
