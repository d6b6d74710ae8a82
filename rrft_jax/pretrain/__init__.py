"""The tiny base checkpoint: a 1.5 M Qwen2-VL that perceives drawn pictures, and no more.

    python -m rrft_jax.pretrain --out=rrft_jax/assets/tiny

A released Qwen2-VL is pretrained too. Without that, reinforcement has nothing to choose from. The
lessons of the base are in two files. `lessons.py` teaches it to name the things in a picture, to
look things up in it, to compare, to add. `recall.py` teaches it to look things up in a text. The
base never sees a chain of thought, the <think> tags, or a picture of the splits that training and
evaluation draw.

The packaged weights have had as many steps of each phase as the command takes, in over three hours
on two cores. But the steps were not in one run, because the lessons grew meanwhile:

* "perceive": 900 and 1,250 steps, the first ones by AdamW alone
* "answer": 850 steps with the tower frozen, and 1,600 more
* "recall": 1,050 steps with repetitions alone, then 800 and 1,000 with lists
* "review": 700 and 1,200 steps
"""
