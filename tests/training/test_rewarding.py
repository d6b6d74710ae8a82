"""Groups that teach nothing are replaced by such of fresh prompts, row by row, up to a limit."""

import itertools
import types

import jax
import numpy as np
import pytest

from rrft_jax import rewards
from rrft_jax.assets import TINY
from rrft_jax.data import Processor, Source
from rrft_jax.data.drawn import TINY_SIZE
from rrft_jax.rollout import Rollouts
from rrft_jax.rollout.rollouts import Rewards, objects
from rrft_jax.tasks.drawings import counting
from rrft_jax.training.rewarding import Learnt, has_signal, metrics, refill, rewards_of, shown

G, T = 2, 3
ARRAYS = ("tokens", "mask", "finished", "rollout_log_probs")


@pytest.fixture(scope="module")
def processor():
    return Processor.from_pretrained(TINY)


def rollouts_of(processor, names, spread, patches=4, length=64):
    """Rewarded rollouts of prompts that say their names; rewards agree where `spread` is 0."""
    prompts = [processor.encode([{"role": "user", "content": name}], []) for name in names]
    number = np.array([ord(name) for name in names], np.int32)
    rewards = np.stack([number, number + np.array(spread)], axis=1).astype(np.float32)
    shape = (len(names), G, T)
    return Rollouts(
        prompt=processor.batch(prompts, length, patches),
        tokens=np.broadcast_to(number[:, None, None], shape),
        mask=np.ones(shape, bool),
        finished=np.ones(shape[:2], bool),
        rollout_log_probs=np.broadcast_to(-number[:, None, None] / 10, shape),
        texts=np.array([[name] * G for name in names], object),
        rewards=Rewards(
            rewards, rewards[..., None], objects([{}] * len(names)), (f"by_{names[0]}",)
        ),
        records=objects(
            [{"id": name, "prompt": name, "answer": "1", "tokens": 5} for name in names]
        ),
        row_ids=tuple(range(len(names))),
    )


def test_only_groups_without_spread_are_replaced_and_by_such_with_spread(processor):
    first = rollouts_of(processor, "abcd", [0, 1, 0, 0])
    fresh = [
        rollouts_of(processor, "efgh", [0, 0, 1, 0], patches=8, length=96),
        rollouts_of(processor, "ijkl", [1, 1, 1, 1]),
        rollouts_of(processor, "mnop", [1, 1, 1, 1]),
    ]
    more = iter(fresh)
    got, replaced, rounds = refill(first, more, processor, limit=5)
    # g for a; i and j for c and d; of the others nothing is kept, and no third batch is asked for.
    names = ["g", "b", "i", "j"]
    assert (replaced, rounds) == (3, 2) and next(more) is fresh[2]
    assert [record["id"] for record in got.records] == names
    assert got.texts.tolist() == [[name] * G for name in names]
    assert has_signal(got).all()
    assert got.rewards.total[:, 0].tolist() == [ord(name) for name in names]
    for name in ARRAYS:
        assert getattr(got, name).shape == getattr(first, name).shape
        np.testing.assert_array_equal(getattr(got.local(), name), getattr(got, name))
    assert got.tokens[:, 0, 0].tolist() == [ord(name) for name in names]
    by_a = got.rewards.by_name["by_a"]
    np.testing.assert_array_equal(np.isnan(by_a[:, 0]), [True, False, True, True])
    # The rows are padded to the longest, and are what they were.
    assert got.prompt.tokens.shape == (4, 96) and got.prompt.patches.shape[1] == 8
    want = rollouts_of(processor, "gbij", [1] * 4, patches=8, length=96).prompt
    jax.tree.map(np.testing.assert_array_equal, got.prompt, want)


def test_at_the_limit_groups_without_spread_are_left(processor):
    first = rollouts_of(processor, "ab", [0, 0])
    flat = rollouts_of(processor, "cd", [0, 0])
    got, replaced, rounds = refill(first, itertools.repeat(flat), processor, limit=2)
    assert got is first and (replaced, rounds) == (0, 2)


def test_without_a_limit_nothing_more_is_sampled(processor):
    first = rollouts_of(processor, "ab", [0, 1])
    assert refill(first, None, processor, limit=0) == (first, 0, 0)
    assert metrics(first)["flat_groups"] == 0.5


def test_each_row_has_the_rewards_of_its_source():
    example = counting.sample("train", 0, 0, TINY_SIZE)
    own = Source([example], rewards={"accuracy": 2.0, "math_accuracy": -1.0})
    right = f"<think>so</think>\n<answer>{example.answer}</answer>"
    batch = types.SimpleNamespace(examples=[example] * 2, sources=[Source([example]), own])
    terms = rewards.read_terms({"accuracy": 1.0, "format": 0.5})
    found = rewards_of(terms, [[right, "?"]] * 2, batch, step=1, lengths=np.ones((2, 2)))
    np.testing.assert_array_equal(found.total, [[1.5, 0], [1, 0]])
    assert found.failures.tolist() == [
        {"accuracy": [], "format": []},
        {"accuracy": [], "math_accuracy": []},
    ]
    nan = np.nan
    for name, values in {
        "accuracy": [[1, 0], [1, 0]],
        "format": [[1, 0], [nan, nan]],
        "math_accuracy": [[nan, nan], [1, 0]],
    }.items():
        np.testing.assert_array_equal(found.by_name[name], values)


@pytest.mark.parametrize("reference", [False, True])
def test_shown_rows_have_a_log_probability_for_each_piece(processor, reference):
    rollouts = rollouts_of(processor, "abc", [0, 1, 1])
    rollouts.mask[0, 1, 2] = False
    for record in rollouts.records:
        record |= {"problem": record["id"], "pictures": []}
    scores = rollouts.rollout_log_probs - 1 if reference else None
    rows = shown(Learnt(rollouts, np.zeros((3, G)), scores), processor)
    assert [row["id"] for row in rows] == ["a", "a", "b", "b"]  # the first two prompts
    assert [row["reward"] for row in rows] == rollouts.rewards.total[:2].ravel().tolist()
    for row, length in zip(rows, [3, 2, 3, 3]):
        assert len(row["pieces"]) == len(row["rollout_log_probs"]) == length
        assert ("reference_log_probs" in row) == reference
        if reference:
            pairs = zip(row["reference_log_probs"], row["rollout_log_probs"])
            assert [round(theirs - own, 4) for theirs, own in pairs] == [-1] * length
