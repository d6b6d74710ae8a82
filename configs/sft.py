"""Supervised fine-tuning: on chains of thought (`cot_sft`) or on the bare answers (`ans_sft`).

python -m rrft_jax.main --config=configs/sft.py:model=2b,task=visual_counting,paradigm=ans_sft
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    chosen = common.parse(arg, paradigms=("cot_sft", "ans_sft"))
    config = common.base(chosen)
    config.stages = ("sft",)
    config.data.max_pixels = 512 * 512
    config.sft = stage(chosen["model"], chosen["task"])
    return config


def stage(model: str, task: str) -> ml_collections.ConfigDict:
    """The section `sft`, here and as the first stage of GRPO."""
    sft = common.adamw(
        steps=0,  # 0: as many as the epochs have
        epochs=1,
        batch_size=16,
        # Parts of a batch whose gradients are added up before the update; 0: as many as leave each
        # device one row at a time, which takes the least memory.
        micro_batches=0,
        learning_rate=1e-5,
        schedule="cosine",
        # The first stage of `reason_rft` has 1,600 / 16 = 100 steps: all of it is warm-up.
        warmup_steps=100,
        weight_decay=0.1,
        freeze=r"vision/.*",  # parameter paths; frozen ones have no optimizer state
    )
    if model == "tiny":
        sft.update(micro_batches=1, warmup_steps=20)
        if task == common.COUNTING:
            sft.update(steps=400, learning_rate=1e-3)
        else:  # to compare what a text has said takes longer to learn than to count
            sft.update(steps=800, learning_rate=2e-3)
    return sft
