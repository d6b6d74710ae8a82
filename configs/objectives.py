"""Objectives by name: the settings of a paper's method, as plain fields.

    python -m rrft_jax.main --config=configs/grpo.py:objective=dapo

`docs/algorithms.md` lists them, from this table, and explains the terms. A field of an objective
wins over that of an experiment, and the command line wins over both.

A clip has an effect only on the second and later updates of a batch: in the first one the ratio is
1. So the methods that change the clip also split the batch, as their papers do.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Objective(NamedTuple):
    """A method from a paper."""

    title: str
    paper: str  # URL
    fields: Mapping[str, Any]  # those that differ from the defaults
    note: str = ""


OBJECTIVES = {
    "grpo": Objective(
        "GRPO, as in Reason-RFT", "https://arxiv.org/abs/2503.20752", {}, "the defaults"
    ),
    "dapo": Objective(
        "DAPO",
        "https://arxiv.org/abs/2503.14476",
        {
            "grpo.aggregation": "token",
            "grpo.epsilon_high": 0.28,
            "grpo.mini_batches": 4,
            "grpo.beta": 0.0,
            "grpo.dynamic_sampling": 4,
            "grpo.mask_truncated": True,
        },
        "the paper makes 16 updates a batch of 512 prompts, and sets no limit to "
        "`dynamic_sampling`: both 4 are ours. `mask_truncated` is its overlong filtering; its soft "
        "punishment is the reward `overlong`, with your `sampling.max_new_tokens` as its `limit`",
    ),
    "dr_grpo": Objective(
        "Dr. GRPO",
        "https://arxiv.org/abs/2503.20783",
        {"grpo.aggregation": "constant", "grpo.advantages": "group", "grpo.beta": 0.0},
    ),
    "gspo": Objective(
        "GSPO",
        "https://arxiv.org/abs/2507.18071",
        {
            "grpo.ratio": "sequence",
            "grpo.epsilon_low": 3e-4,
            "grpo.epsilon_high": 4e-4,
            "grpo.mini_batches": 4,
            "grpo.beta": 0.0,
        },
    ),
    "cispo": Objective(
        "CISPO",
        "https://arxiv.org/abs/2506.13585",
        {
            "grpo.ratio": "cispo",
            "grpo.epsilon_low": 1.0,
            "grpo.mini_batches": 4,
            "grpo.aggregation": "token",
            "grpo.beta": 0.0,
        },
        "`epsilon_low=1` sets no lower bound, as in the paper, which does not state its "
        "`epsilon_high`; it makes 16 updates a batch, the 4 is ours",
    ),
    "rloo": Objective(
        "RLOO",
        "https://arxiv.org/abs/2402.14740",
        {
            "grpo.advantages": "rloo",
            "grpo.aggregation": "constant",
            "grpo.kl_in": "reward",
            "grpo.kl": "k1",
        },
        "a completion is one action, so `aggregation=constant` sums over its tokens",
    ),
}
