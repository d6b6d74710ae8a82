"""The paper's comparison: four paradigms of training, on the same samples.

    python -m rrft_jax.study --config=configs/study.py --out=studies/counting
    python -m rrft_jax.study --config=configs/study.py:model=2b --out=studies/2b \
        --config.model.path=Qwen2-VL-2B-Instruct --config.data.path=Reason-RFT-CoT-Dataset

A study runs this config once for each paradigm, number of samples and seed below. Each such run is
an ordinary one:

    python -m rrft_jax.main --config=configs/study.py:paradigm=ans_sft --config.data.samples=400

Every stage goes once through its samples. So the four paradigms see each sample once, except where
the task lets GRPO use the samples of SFT again. The `tiny` model has the settings of its tuned
experiments in `configs/tiny_*.py`. The other models have those of Reason-RFT. `tuning=lora` trains
a low-rank adapter in place of all weights.
"""

import ml_collections

from configs import eval as evaluation
from configs import grpo
from configs.base import TUNINGS, base, choose
from rrft_jax.settings import Config, GRPOSettings, SFTSettings

PARADIGMS = ("ans_sft", "cot_sft", "reason_rft_zero", "reason_rft")
SAMPLES = (400, 1_600, 6_400, 25_600)
SEEDS = (0, 1, 2)

STAGES = {
    "ans_sft": ("sft",),
    "cot_sft": ("sft",),
    "reason_rft_zero": ("grpo",),
    "reason_rft": ("sft", "grpo"),
}
_TINY = {
    "checkpoint_every": 100,
    "eval.sampled": False,
    # Steps follow from the samples. Small batches give SFT enough of them.
    "sft.steps": 0,
    "sft.batch_size": 4,
    "sft.warmup_steps": 10,
    "grpo.steps": 0,
    "grpo.epochs": 1,
}
# SFT learns every thought, as in the paper. The tuned experiments empty some of them.
_OF_PARADIGM = dict.fromkeys(("cot_sft", "reason_rft"), {"data.thought_dropout": 0.0})
# The tuned experiment has batches of 16. Of four learning rates for these small ones, this one gave
# SFT on 6,400 samples the best accuracy.
_OF_TASK = {"spatial_transformation": {"sft.learning_rate": 1e-3}}
_TUNED = {**evaluation.EXPERIMENTS, **grpo.EXPERIMENTS}
EXPERIMENTS = {
    (model, task, paradigm): {
        **fields,
        **_TINY,
        **_OF_TASK.get(task, {}),
        **_OF_PARADIGM.get(paradigm, {}),
    }
    for (model, task, paradigm), fields in _TUNED.items()
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Return the config that the argument chooses; see `configs.base.choose`."""
    choice = choose(arg, PARADIGMS, tunings=tuple(TUNINGS))
    stages = STAGES[choice.paradigm]
    sections = Config(
        stages=stages,
        sft=SFTSettings() if "sft" in stages else None,
        grpo=GRPOSettings() if "grpo" in stages else None,
    )
    return base(choice, EXPERIMENTS, sections)
