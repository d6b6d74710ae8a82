"""Supervised fine-tuning, on chains of thought (`cot_sft`) or on the bare answers (`ans_sft`).

    python -m rrft_jax.main --config=configs/sft.py
    python -m rrft_jax.main --config=configs/sft.py:model=2b,paradigm=ans_sft \
        --config.model.path=Qwen2-VL-2B-Instruct --config.data.path=Reason-RFT-CoT-Dataset

The stage is the first stage of `configs/grpo.py`, but trains on all samples.
`tuning=lora` trains a low-rank adapter in place of all weights.
"""

import ml_collections

from configs.base import TUNINGS, base, choose
from configs.eval import EXPERIMENTS  # SFT has the fields of its evaluation
from rrft_jax.settings import Config, DataSettings, SFTSettings

PARADIGMS = ("cot_sft", "ans_sft")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Return the config that the argument chooses; see `configs.base.choose`."""
    choice = choose(arg, PARADIGMS, tunings=tuple(TUNINGS))
    data = DataSettings(max_pixels=512 * 512)
    return base(choice, EXPERIMENTS, Config(stages=("sft",), data=data, sft=SFTSettings()))
