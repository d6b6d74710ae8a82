"""Evaluation alone, with the prompts of any paradigm: zero-shot, or of a run's export.

  python -m rrft_jax.main --config=configs/eval.py:model=2b,paradigm=ans_sft \
      --config.model.path=runs/demo/export --config.data.path=...
"""

import ml_collections

from configs import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    paradigms = ("reason_rft", "reason_rft_zero", "cot_sft", "ans_sft")
    return common.base(common.parse(arg, paradigms=paradigms))
