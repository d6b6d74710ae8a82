"""Reinforcement with verifiable rewards, after a short SFT (`reason_rft`) or at once (`_zero`).

python -m rrft_jax.main --config=configs/grpo.py
python -m rrft_jax.main --config=configs/grpo.py:model=2b,paradigm=reason_rft_zero
"""

import ml_collections

from configs import common, sft
from rrft_jax.tasks import TASKS


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    chosen = common.parse(arg, paradigms=("reason_rft", "reason_rft_zero"))
    config = common.base(chosen)
    rewards = dict(TASKS[chosen["task"]].rewards)
    if chosen["model"] == "tiny":
        # SFT leaves some thoughts empty, and GRPO is to find out when it pays to think.
        rewards["format"] = {"weight": 1.0, "empty_thought": True}
        if chosen["task"] == common.TRANSFORMATION:  # what it finds is seldom the whole answer
            rewards["transformation"] = rewards.pop("transformation_full")
    config.stages = ("sft", "grpo") if chosen["paradigm"] == "reason_rft" else ("grpo",)
    config.sft = sft.stage(chosen["model"], chosen["task"])
    config.grpo = grpo = common.adamw(
        steps=0,  # 0: as many as the epochs have
        epochs=5 if chosen["task"] == "structure_perception" else 1,
        # Prompts; a multiple of mesh.data x mesh.fsdp x mini_ x micro_batches. The public scripts'
        # 14 are 2 on each of 7 GPUs, with an eighth to sample; 16 divide over 4, 8 and 16 devices.
        batch_size=16,
        micro_batches=0,  # 0: as many as leave each device one prompt at a time
        num_generations=8,  # completions a prompt
        num_iterations=1,  # passes over one batch of completions
        mini_batches=1,  # parts of it in a pass, each an update
        learning_rate=1e-6,
        schedule="linear",  # to 0
        warmup_steps=0,
        weight_decay=0.0,
        freeze="",  # everything is trained
        # The objective, term by term: rrft_jax/training/objectives.py. These are the paper's.
        advantages="group_std",  # or "group", "batch_std", "rloo"
        ratio="token",  # or "sequence", "cispo"
        epsilon_low=0.2,  # the ratio counts from 1 - this
        epsilon_high=0.2,  # to 1 + this,
        dual_clip=0.0,  # and to this where the advantage is negative; 0: without end
        aggregation="sequence",  # or "token", "constant"
        beta=0.04,  # weight of the KL penalty to the policy before this stage; 0: no such policy
        reference_dtype="",  # of its weights: "" is model.compute_dtype, "int8" half of bfloat16
        kl="k3",  # how it is estimated: "k1", "k2" or "k3"
        kl_in="loss",  # or "reward"
        entropy_bonus=0.0,  # weight of the entropy
        mask_truncated=False,  # completions cut at the limit carry no loss
        # Batches of fresh prompts that a step may sample to replace groups whose rewards are all
        # the same.
        dynamic_sampling=0,
        # Importance weights between the distribution that was sampled from and the policy at
        # temperature 1: "none", "token" or "sequence"; at most importance_cap.
        importance_sampling="none",
        importance_cap=2.0,
        reward_seconds=2.0,  # that a completion's rewards may take; past them they are 0
        # Name, or dotted path of a function -> weight in the sum, or {"weight": ..., options}.
        rewards=ml_collections.ConfigDict(rewards, allow_dotted_keys=True),
    )
    if chosen["model"] == "tiny":
        grpo.update(steps=40, batch_size=16, learning_rate=2e-4)
        if chosen["task"] != common.COUNTING:
            grpo.batch_size = 32  # what a group's rewards say differs more from prompt to prompt
        if chosen["task"] == "structure_perception":
            grpo.learning_rate = 1e-4
        zero = chosen["paradigm"] == "reason_rft_zero"
        transforms = chosen["task"] == common.TRANSFORMATION
        if zero and chosen["task"] == common.COUNTING:
            grpo.steps = 100  # short ones: its completions are a number, or a letter
        if zero and chosen["task"] == "structure_perception":  # the same, and slower to learn
            grpo.steps = 250
            config.sampling.max_new_tokens = 24
        if transforms and not zero:
            # As in SFT: the noise of rewards would blur what it sees.
            grpo.update(steps=60, freeze=r"vision/.*")
            # An answer is many choices, and at temperature 1 samples err in one of them where the
            # greedy answer does not: then it pays to leave a call out, and greedy answers learn it.
            config.sampling.temperature = 0.8
    return config
