"""Rewards that fail: the first failure is said, and one that always fails ends the run."""

import types

import numpy as np
import pytest

from rrft_jax import rewards
from rrft_jax.data import Source
from rrft_jax.errors import UserError
from rrft_jax.rewards import guard
from rrft_jax.rollout import Rollouts
from rrft_jax.tasks.example import Example
from rrft_jax.training import rewarding
from rrft_jax.training.failing import FailingRewards

BROKEN = "tests.rewards.victims.broken"
EXAMPLE = Example("a", (), "?", answer="1", cot=None, task="visual_counting")


def rewarded(texts, terms=None, sources=None):
    """The rewarded rollouts of texts [B][G]."""
    size, number = len(texts), len(texts[0])
    known = [text for group in texts for text in group]
    batch = types.SimpleNamespace(
        row_ids=list(range(size)),
        examples=[EXAMPLE] * size,
        sources=sources or [Source([EXAMPLE])] * size,
        prompt_texts=["?"] * size,
        prompt=types.SimpleNamespace(mask=np.ones((size, 3), bool)),
    )
    mask = np.ones((size, number, 1), bool)
    tokens = np.arange(len(known)).reshape(size, number, 1)
    sampled = Rollouts(None, tokens, mask, mask[..., 0], np.zeros(mask.shape))
    processor = types.SimpleNamespace(prompt_end="", decode=lambda tokens: known[int(tokens[0])])
    terms = rewards.read_terms(terms or {BROKEN: 1.0, "format": 1.0})
    return rewarding.reward(sampled, batch, terms, processor, 1)


def test_failures_are_counted_by_completion_and_reward():
    failing = FailingRewards(2.0)
    rollouts = rewarded([["a", "raises", "b"], ["nan", "none", "c"]])
    by_row = [{name: len(f) for name, f in row.items()} for row in rollouts.rewards.failures]
    assert by_row == [{BROKEN: 1, "format": 0}, {BROKEN: 2, "format": 0}]
    np.testing.assert_array_equal(rollouts.rewards.by_name[BROKEN], [[2, 0, 2], [0, 0, 3]])
    for _ in range(2):
        failing.check(rollouts)
    assert failing.take_count() == 6 and failing.take_count() == 0


def test_the_first_failure_is_said_with_its_traceback_and_no_other(capsys):
    failing = FailingRewards(2.0)
    failing.check(rewarded([["a", "b"]]))
    assert capsys.readouterr().err == ""
    failing.check(rewarded([["a", "raises"]]))
    said = capsys.readouterr().err
    assert f"reward '{BROKEN}' failed on a completion" in said and "'raises'" in said
    assert "Traceback (most recent call last)" in said and "KeyError: 'no box'" in said
    assert "victims.py" in said and "reward_failures" in said
    failing.check(rewarded([["nan", "raises"]]))  # all of them, but not of the first batch
    assert capsys.readouterr().err == ""


def test_a_long_completion_is_shortened(capsys):
    terms = {"tests.rewards.victims.odd": {"weight": 1, "kind": "None"}, "format": 1.0}
    with pytest.raises(UserError):
        FailingRewards(2.0).check(rewarded([["long " * 1000, "b"]], terms))
    assert len(capsys.readouterr().err) < 600


@pytest.mark.parametrize(
    "how, said",
    [
        ("raises", "on all 4 completions of its first batch it failed: KeyError: 'no box'; mend"),
        ("nan", "failed: returned nan for a completion; expected a finite number; mend it"),
        ("dies", "failed: its process died"),
    ],
)
def test_a_reward_that_fails_on_its_whole_first_batch_ends_the_run(how, said):
    with pytest.raises(UserError, match=f"^reward '{BROKEN}': .*{said}"):
        FailingRewards(2.0).check(rewarded([[how, how], [how, how]]))


def test_one_that_takes_too_long_on_all_of_it_says_so():
    with guard.limit(0.2):
        rollouts = rewarded([["hangs", "hangs"]])
    with pytest.raises(UserError, match="its time limit, 0.2 s a.*raise --config.grpo.reward_s"):
        FailingRewards(0.2).check(rollouts)


def test_one_that_works_on_a_single_completion_goes_on():
    failing = FailingRewards(2.0)
    failing.check(rewarded([["raises", "raises"], ["raises", "a"]]))
    failing.check(rewarded([["raises", "raises"]]))  # was asked before


def test_a_reward_of_one_source_counts_where_it_is_asked():
    own = Source([EXAMPLE], rewards={BROKEN: 1.0})
    failing, terms = FailingRewards(2.0), {"format": 1.0}
    failing.check(rewarded([["raises", "a"]], terms))
    with pytest.raises(UserError, match="on all 2 completions"):
        failing.check(rewarded([["a", "a"], ["raises", "nan"]], terms, [Source([EXAMPLE]), own]))
