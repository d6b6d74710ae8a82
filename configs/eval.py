"""Evaluation alone: of a checkpoint folder, or of a run, which means its export.

  python -m rrft_jax.main --config=configs/eval.py:model=2b --config.model.path=runs/mine \
      --config.data.path=Reason-RFT-CoT-Dataset

All held-out splits of the task are evaluated; `--config.eval.tasks=visual_counting,...` takes those
of several tasks, and calls them "visual_counting/id" and so on. For the tiny model choose the
transformation as the task then: its brief words and its longest answers are what all can do with.

`paradigm` says what the model is asked: to reason (`reason_rft`, `reason_rft_zero` and `cot_sft`
alike), the question alone (`ans_sft`), or the bare answer of a model that has learnt neither
(`zero_shot`). For the four-part answer to a transformation it's `--config.data.variant=caption`.

`2b` and `7b` sample as the public code does (temperature 0.1, top-p 0.9, top-k 50, 768 tokens), so
two seeds differ; `--config.eval.temperature=0` is greedy, and `--config.eval.passes=4` averages
over four completions a sample. An evaluation that was stopped goes on where it was. The run's
folder then holds `results.json`, `table.md` with the paper's rows below its own, and every
completion in `predictions-SPLIT.jsonl`, which `python -m rrft_jax.evaluation.rescore` scores again
and `python -m rrft_jax.evaluation.compare` sets beside those of other runs.
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
from configs.base import MODELS, base, choose
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
    choice = choose(arg, PARADIGMS)
    fields = EXPERIMENTS.get(choice, MODELS[choice.model])
    return base(choice, fields, Config())
