"""The packaged base model learns to tell how one scene becomes another, by SFT and then by GRPO.

    python -m rrft_jax.main --config=configs/grpo.py:task=spatial_transformation

Accuracy in percent of 1,000 held-out samples, greedy, seed 0; 13 min 17 s on two idle CPU cores:

             id           left camera   right camera
    start    0.0          0.0           0.0
    sft     69.0 ± 1.0   55.0 ± 1.0    57.0 ± 1.0
    grpo    70.9 ± 1.0   56.9 ± 1.0    59.3 ± 1.0
"""

from configs import tiny_visual_counting

# The fields of every run on this task, SFT alone and evaluation included.
TASK = {
    **tiny_visual_counting.MODEL,
    "data.thought_dropout": 0.3,  # this task needs more of the thoughts to learn from
    "sampling.max_new_tokens": 176,  # a little more than the longest target
    "eval.max_new_tokens": 192,
    "grpo.batch_size": 32,  # rewards vary more between prompts than in counting
    # An answer is seldom right as a whole, so the reward scores each call.
    "grpo.rewards": {"format": {"weight": 1.0, "empty_thought": True}, "transformation": 1.0},
}

# The fields of the runs that reason or have learnt nothing. The full rules are longer than any
# other text that this model reads.
BRIEF = {**TASK, "data.variant": "brief"}

FIELDS = {
    **BRIEF,
    # An answer is many choices. At temperature 1 a sample errs in one of them although the greedy
    # answer does not. Then leaving out a call pays, and the greedy answer learns to do so.
    "sampling.temperature": 0.8,
    "grpo.steps": 60,
    "grpo.freeze": r"vision/.*",  # as in SFT: noisy rewards would harm the model's vision
}
