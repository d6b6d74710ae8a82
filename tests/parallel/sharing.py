"""Two processes that both have a row reward it, and say what came of it; run by test_processes."""

import sys
import types

import numpy as np

from rrft_jax import rewards
from rrft_jax.data import Source
from rrft_jax.parallel import distributed
from rrft_jax.rollout import Rollouts
from rrft_jax.tasks.example import Example
from rrft_jax.training import rewarding


def main(coordinator: str, process_id: int) -> None:
    distributed.initialize(coordinator, 2, process_id)
    with distributed.leaving_together():
        example = Example("a", (), "?", answer="1", cot=None, task="visual_counting")
        batch = types.SimpleNamespace(
            row_ids=[process_id, process_id + 1],  # row 1 is on both
            examples=[example] * 2,
            sources=[Source([example])] * 2,
            prompt_texts=["?"] * 2,
            prompt=types.SimpleNamespace(mask=np.ones((2, 3), bool)),
        )
        mask = np.ones((2, 1, 4), bool)
        tokens = np.zeros((2, 1, 4), np.int32)
        sampled = Rollouts(None, tokens, mask, mask[..., 0], np.zeros(mask.shape))
        processor = types.SimpleNamespace(prompt_end="", decode=lambda tokens: "raises")
        terms = rewards.read_terms({"tests.rewards.victims.broken": 1.0})
        rollouts = rewarding.reward(sampled, batch, terms, processor, 1)
        failures = sum(len(f) for row in rollouts.rewards.failures for f in row.values())
        print(f"rows {len(rollouts.texts)} failures {failures}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
