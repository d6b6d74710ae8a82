"""The packaged base model learns to tell how one scene becomes another, by GRPO alone.

    python -m rrft_jax.main \
        --config=configs/grpo.py:task=spatial_transformation,paradigm=reason_rft_zero

Accuracy in percent of 1,000 held-out samples, greedy, seed 0; 4 min 21 s on two idle CPU cores:

             id           left camera   right camera
    start   13.6 ± 0.4   13.0 ± 0.4    12.3 ± 0.4
    grpo    17.3 ± 0.4   17.2 ± 0.4    16.6 ± 0.4
"""

from configs import tiny_spatial_transformation, tiny_visual_counting_zero

TASK = {**tiny_spatial_transformation.TASK, **tiny_visual_counting_zero.WORDS}

FIELDS = TASK
