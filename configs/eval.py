"""Evaluation alone, of a checkpoint folder or of a finished run's export.

  python -m rrft_jax.main --config=configs/eval.py:model=2b --config.model.path=runs/mine \
      --config.data.path=Reason-RFT-CoT-Dataset

All held-out splits of the task are evaluated. `--config.eval.tasks=visual_counting,...` evaluates
the splits of several tasks, and calls them "visual_counting/id" and so on. In this case choose
`task=spatial_transformation` for the tiny model: its brief words and its token limit suit all
tasks.

`paradigm` chooses the prompt. `reason_rft`, `reason_rft_zero` and `cot_sft` ask the model to
reason. `ans_sft` gives the question alone. `zero_shot` asks a model that has learnt neither for the
bare answer. `--config.data.variant=caption` asks for the four-part answer to a transformation.

`2b` and `7b` sample as the public code does (temperature 0.1, top-p 0.9, top-k 50, 768 tokens), so
two seeds differ. `--config.eval.temperature=0` is greedy. `--config.eval.passes=4` averages over
four completions per sample. The same command resumes a stopped evaluation. The run's folder then
holds `results.json`, `table.md` with the paper's rows below its own, and every completion in
`predictions-SPLIT.jsonl`. `python -m rrft_jax.evaluation.rescore` scores these files again, and
`python -m rrft_jax.evaluation.compare` compares them with those of other runs.
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
from configs.base import base, choose
from rrft_jax.settings import Config

PARADIGMS = ("reason_rft", "reason_rft_zero", "cot_sft", "ans_sft", "zero_shot")
EXPERIMENTS = {
    ("tiny", "visual_counting", "reason_rft"): tiny_visual_counting.TASK,
    ("tiny", "visual_counting", "reason_rft_zero"): tiny_visual_counting_zero.TASK,
    ("tiny", "visual_counting", "cot_sft"): tiny_visual_counting.TASK,
    ("tiny", "visual_counting", "ans_sft"): tiny_visual_counting.TASK,
    ("tiny", "visual_counting", "zero_shot"): tiny_visual_counting.TASK,
    ("tiny", "structure_perception", "reason_rft"): tiny_structure_perception.TASK,
    ("tiny", "structure_perception", "reason_rft_zero"): tiny_structure_perception_zero.TASK,
    ("tiny", "structure_perception", "cot_sft"): tiny_structure_perception.TASK,
    ("tiny", "structure_perception", "ans_sft"): tiny_structure_perception.TASK,
    ("tiny", "structure_perception", "zero_shot"): tiny_structure_perception.TASK,
    ("tiny", "spatial_transformation", "reason_rft"): tiny_spatial_transformation.BRIEF,
    ("tiny", "spatial_transformation", "reason_rft_zero"): tiny_spatial_transformation_zero.TASK,
    ("tiny", "spatial_transformation", "cot_sft"): tiny_spatial_transformation.BRIEF,
    ("tiny", "spatial_transformation", "ans_sft"): tiny_spatial_transformation.TASK,
    ("tiny", "spatial_transformation", "zero_shot"): tiny_spatial_transformation.BRIEF,
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Return the config that the argument chooses; see `configs.base.choose`."""
    choice = choose(arg, PARADIGMS)
    return base(choice, EXPERIMENTS, Config())
