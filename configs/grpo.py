"""GRPO with verifiable rewards, after a short SFT (`reason_rft`) or alone (`reason_rft_zero`).

    python -m rrft_jax.main --config=configs/grpo.py
    python -m rrft_jax.main --config=configs/grpo.py:model=2b,paradigm=reason_rft_zero \
        --config.model.path=Qwen2-VL-2B-Instruct --config.data.path=Reason-RFT-CoT-Dataset

`objective=dapo`, `dr_grpo`, `gspo`, `cispo` or `rloo` has the settings of that method's paper: see
`configs/objectives.py`. `tuning=lora` trains a low-rank adapter in place of all weights.

Experiments with the `tiny` model are tuned, and each has a file with its result. The
other models have the settings of Reason-RFT: the defaults of `rrft_jax/settings.py`, with the mesh
from `MODELS`. They have not been trained yet.
"""

import ml_collections

from configs import (
    tiny_spatial_transformation,
    tiny_spatial_transformation_zero,
    tiny_structure_perception,
    tiny_structure_perception_zero,
    tiny_visual_counting,
    tiny_visual_counting_zero,
)
from configs.base import TUNINGS, base, choose
from configs.objectives import OBJECTIVES
from rrft_jax.settings import Config, GRPOSettings, SFTSettings

EXPERIMENTS = {
    ("tiny", "visual_counting", "reason_rft"): tiny_visual_counting.FIELDS,
    ("tiny", "visual_counting", "reason_rft_zero"): tiny_visual_counting_zero.FIELDS,
    ("tiny", "structure_perception", "reason_rft"): tiny_structure_perception.FIELDS,
    ("tiny", "structure_perception", "reason_rft_zero"): tiny_structure_perception_zero.FIELDS,
    ("tiny", "spatial_transformation", "reason_rft"): tiny_spatial_transformation.FIELDS,
    ("tiny", "spatial_transformation", "reason_rft_zero"): tiny_spatial_transformation_zero.FIELDS,
}
STAGES = {"reason_rft": ("sft", "grpo"), "reason_rft_zero": ("grpo",)}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Return the config that the argument chooses; see `configs.base.choose`."""
    choice = choose(arg, tuple(STAGES), tuple(OBJECTIVES), tuple(TUNINGS))
    return base(
        choice,
        EXPERIMENTS,
        Config(stages=STAGES[choice.paradigm], sft=SFTSettings(), grpo=GRPOSettings()),
    )
