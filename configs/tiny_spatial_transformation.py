"""The packaged base model learns to tell how one scene becomes another, by SFT and then by GRPO.

    python -m rrft_jax.main --config=configs/grpo.py:task=spatial_transformation

Accuracy in percent of 1,000 held-out samples, greedy, seed 0; 13 min 17 s on two idle CPU cores:

             id           left camera   right camera
    start    0.0          0.0           0.0
    sft     69.0 ± 1.0   55.0 ± 1.0    57.0 ± 1.0
    grpo    70.9 ± 1.0   56.9 ± 1.0    59.3 ± 1.0
"""

from configs import tiny_visual_counting

# Of every run on this task, SFT alone and evaluation too.
TASK = {
    **tiny_visual_counting.MODEL,
    "data.thought_dropout": 0.3,  # needs more of the thoughts that there are to learn from
    "sampling.max_new_tokens": 176,  # a little more than the longest target has
    "eval.max_new_tokens": 192,
    "grpo.batch_size": 32,  # groups of two prompts differ more in their rewards than in counting
    # An answer is seldom right as a whole, so each call counts.
    "grpo.rewards": {"format": {"weight": 1.0, "empty_thought": True}, "transformation": 1.0},
}

# Of the runs that reason, or have learnt nothing: the rules are longer than all else that this
# model reads.
BRIEF = {**TASK, "data.variant": "brief"}

FIELDS = {
    **BRIEF,
    # An answer is many choices. At temperature 1 samples err in one of them where the greedy answer
    # does not; then leaving out a call pays, and greedy answers learn to.
    "sampling.temperature": 0.8,
    "grpo.steps": 60,
    "grpo.freeze": r"vision/.*",  # as in SFT: noisy rewards would blur what the model sees
}
