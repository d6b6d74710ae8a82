"""Reinforcement with verifiable rewards, after a short SFT (`reason_rft`) or at once (`_zero`).

python -m rrft_jax.main --config=configs/grpo.py
python -m rrft_jax.main --config=configs/grpo.py:model=2b,paradigm=reason_rft_zero
"""

import ml_collections

from configs import common, sft
from rrft_jax.rewards import DEFAULTS


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    chosen = common.parse(arg, paradigms=("reason_rft", "reason_rft_zero"))
    config = common.base(chosen)
    config.stages = ("sft", "grpo") if chosen["paradigm"] == "reason_rft" else ("grpo",)
    config.sft = sft.stage(chosen["model"], chosen["task"])
    config.grpo = grpo = common.adamw(
        steps=0,  # 0: as many as the epochs have
        epochs=5 if chosen["task"] == "structure_perception" else 1,
        batch_size=14,  # prompts; take a multiple of mesh.data x mesh.fsdp x micro_batches
        micro_batches=2,
        num_samples=8,  # completions a prompt
        inner_updates=1,  # of the policy on one batch of completions
        learning_rate=1e-6,
        schedule="linear",  # to 0
        warmup_steps=0,
        weight_decay=0.0,
        freeze="",  # everything is trained
        beta=0.04,  # weight of the KL penalty to the policy before this stage
        clip_low=0.2,
        clip_high=0.2,
        reward_seconds=2.0,  # that a completion's rewards may take; past them they are 0
        # Name, or dotted path of a function -> weight in the sum, or {"weight": ..., options}.
        rewards=ml_collections.ConfigDict(DEFAULTS[chosen["task"]], allow_dotted_keys=True),
    )
    if chosen["model"] == "tiny":
        rate = 2e-4 if chosen["task"] == common.COUNTING else 1e-4
        grpo.update(steps=40, batch_size=16, micro_batches=1, learning_rate=rate)
    return config
