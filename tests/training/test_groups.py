"""Groups that teach nothing are replaced by such of fresh prompts, row by row, up to a limit."""

import jax
import numpy as np
import pytest

from rrft_jax.assets import TINY
from rrft_jax.data import Batch, Example, Processor, Source
from rrft_jax.training.groups import AXES, Groups, refill

G, T = 2, 3


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(TINY)


def groups_of(processor, names, spread, patches=4, length=64):
    """Rewarded groups of prompts that say their names; where `spread` isn't set rewards agree."""
    prompts = [processor.encode([{"role": "user", "content": name}], []) for name in names]
    source = Source([])
    number = np.array([ord(name) for name in names], np.int32)
    arrays = {
        "completions": np.broadcast_to(number[:, None, None], (len(names), G, T)),
        "mask": np.ones((len(names), G, T), bool),
        "finished": np.ones((len(names), G), bool),
        "rollout_log_probs": np.broadcast_to(-number[:, None, None] / 10, (len(names), G, T)),
    }
    rewards = np.stack([number, number + np.array(spread)], axis=1).astype(np.float32)
    return Groups(
        batch=Batch(
            prompt=processor.batch(prompts, length, patches),
            examples=[Example(name, (), name, "1", None, "visual_counting") for name in names],
            rows=list(range(len(names))),
            sources=[source] * len(names),
            prompt_texts=list(names),
            completions=None,
            completion_mask=None,
            row_ids=list(range(len(names))),
        ),
        arrays=arrays,
        texts=[[name] * G for name in names],
        by_name={f"by_{names[0]}": rewards},
        rewards=rewards,
        prompts=[{"id": name, "prompt": name, "answer": "1", "tokens": 5} for name in names],
    )


def test_only_groups_without_spread_are_replaced_and_by_such_with_spread(processor):
    first = groups_of(processor, "abcd", [0, 1, 0, 0])
    fresh = [
        groups_of(processor, "efgh", [0, 0, 1, 0], patches=8, length=96),
        groups_of(processor, "ijkl", [1, 1, 1, 1]),
        groups_of(processor, "mnop", [1, 1, 1, 1]),
    ]
    asked = []

    def more(before):
        asked.append(before)
        return fresh[before - 1]

    got, replaced, rounds = refill(first, more, processor, limit=5)
    # g for a; i and j for c and d; of the others nothing is kept, and no third batch is asked for.
    names = ["g", "b", "i", "j"]
    assert (replaced, rounds, asked) == (3, 2, [1, 2])
    assert [prompt["id"] for prompt in got.prompts] == names
    assert got.texts == [[name] * G for name in names]
    assert got.has_signal.all() and got.rewards[:, 0].tolist() == [ord(name) for name in names]
    for name in AXES:
        assert got.arrays[name].shape == first.arrays[name].shape
        np.testing.assert_array_equal(got.own_arrays[name], got.arrays[name])
    assert got.arrays["completions"][:, 0, 0].tolist() == [ord(name) for name in names]
    np.testing.assert_array_equal(np.isnan(got.by_name["by_a"][:, 0]), [True, False, True, True])
    # The rows are padded to the longest, and are what they were.
    assert got.batch.prompt.tokens.shape == (4, 96) and got.batch.prompt.patches.shape[1] == 8
    want = groups_of(processor, "gbij", [1] * 4, patches=8, length=96).batch.prompt
    jax.tree.map(np.testing.assert_array_equal, got.batch.prompt, want)


def test_at_the_limit_groups_without_spread_are_left(processor):
    first = groups_of(processor, "ab", [0, 0])
    flat = groups_of(processor, "cd", [0, 0])
    got, replaced, rounds = refill(first, lambda before: flat, processor, limit=2)
    assert got is first and (replaced, rounds) == (0, 2)


def test_without_a_limit_nothing_more_is_sampled(processor):
    first = groups_of(processor, "ab", [0, 1])
    assert refill(first, None, processor, limit=0) == (first, 0, 0)
    assert first.metrics()["flat_groups"] == 0.5
