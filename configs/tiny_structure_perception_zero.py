"""The packaged base model learns plane geometry by GRPO alone, without SFT.

    python -m rrft_jax.main \
        --config=configs/grpo.py:task=structure_perception,paradigm=reason_rft_zero

Accuracy in percent of 1,000 held-out samples, greedy, seed 0; 4 min 32 s on two idle CPU cores:

             id           ood
    start   13.2 ± 1.1   14.6 ± 1.1
    grpo    18.9 ± 1.2   14.8 ± 1.1
"""

from configs import tiny_structure_perception, tiny_visual_counting_zero

TASK = {**tiny_structure_perception.TASK, **tiny_visual_counting_zero.WORDS}

FIELDS = {
    **TASK,
    "grpo.steps": 250,  # steps are short, and this task is slower to learn than counting
    "sampling.max_new_tokens": 24,  # a completion is a number, or the letter of an option
}
