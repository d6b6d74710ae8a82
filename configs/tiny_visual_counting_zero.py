"""The packaged base model learns to count by GRPO alone, without SFT.

    python -m rrft_jax.main --config=configs/grpo.py:paradigm=reason_rft_zero

Accuracy in percent of 1,000 held-out samples, greedy, seed 0; 2 min 14 s on two idle CPU cores:

             id           ood
    start   10.2 ± 1.0    5.8 ± 0.7
    grpo    22.8 ± 1.3   14.4 ± 1.1
"""

from configs import tiny_visual_counting

# The base model has never been told how to answer. These words stand before the question, not
# behind it, so that the model still answers as it can.
WORDS = {
    "data.system_prompt": "Think inside <think> </think>, then answer inside <answer> </answer>."
}

TASK = {**tiny_visual_counting.TASK, **WORDS}

FIELDS = {
    **TASK,
    "grpo.steps": 100,  # steps are short, because a completion is a number
}
