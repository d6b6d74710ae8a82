"""Rewards that fail: the first failure is said, and one that always fails ends the run."""

import types

import numpy as np
import pytest

from rrft_jax import rewards
from rrft_jax.data import Source
from rrft_jax.errors import UserError
from rrft_jax.rewards import guard
from rrft_jax.training.failing import FailingRewards
from rrft_jax.training.groups import Groups

BROKEN = "tests.rewards.victims.broken"
EXAMPLE = types.SimpleNamespace(id="a", answer="1")


def groups_of(texts, terms=None, sources=None):
    """What `Groups.rewarded` makes of texts [B][G]."""
    size, number = len(texts), len(texts[0])
    known = [text for group in texts for text in group]
    batch = types.SimpleNamespace(
        row_ids=list(range(size)),
        examples=[EXAMPLE] * size,
        sources=sources or [Source([EXAMPLE])] * size,
        prompt_texts=["?"] * size,
        prompt=types.SimpleNamespace(mask=np.ones((size, 3), bool)),
    )
    arrays = {
        "completions": np.arange(len(known)).reshape(size, number, 1),
        "mask": np.ones((size, number, 1), bool),
    }
    processor = types.SimpleNamespace(decode=lambda tokens: known[int(tokens[0])])
    return Groups.rewarded(
        batch, arrays, rewards.read_terms(terms or {BROKEN: 1.0, "format": 1.0}), processor, 1
    )


def test_failures_are_counted_by_completion_and_reward():
    groups = groups_of([["a", "raises", "b"], ["nan", "none", "c"]])
    assert {name: len(failures) for name, failures in groups.failures.items()} == {
        BROKEN: 3, "format": 0,
    }  # fmt: skip
    assert groups.failed == 3
    np.testing.assert_array_equal(groups.by_name[BROKEN], [[2, 0, 2], [0, 0, 3]])


def test_the_first_failure_is_said_with_its_traceback_and_no_other(capsys):
    failing = FailingRewards()
    failing.check(groups_of([["a", "b"]]))
    assert capsys.readouterr().err == ""
    failing.check(groups_of([["a", "raises"]]))
    said = capsys.readouterr().err
    assert f"reward '{BROKEN}' failed on a completion" in said and "'raises'" in said
    assert "Traceback (most recent call last)" in said and "KeyError: 'no box'" in said
    assert "victims.py" in said and "reward_failures" in said
    failing.check(groups_of([["nan", "raises"]]))  # all of them, but not of the first batch
    assert capsys.readouterr().err == ""


def test_a_long_completion_is_shortened(capsys):
    terms = {"tests.rewards.victims.odd": {"weight": 1, "kind": "None"}, "format": 1.0}
    with pytest.raises(UserError):
        FailingRewards().check(groups_of([["long " * 1000, "b"]], terms))
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
        FailingRewards().check(groups_of([[how, how], [how, how]]))


def test_one_that_takes_too_long_on_all_of_it_says_so():
    guard.limit(0.2)
    try:
        with pytest.raises(
            UserError, match="its time limit, 0.2 s a.*raise --config.grpo.reward_s"
        ):
            FailingRewards().check(groups_of([["hangs", "hangs"]]))
    finally:
        guard.limit(guard.SECONDS)


def test_one_that_works_on_a_single_completion_goes_on():
    failing = FailingRewards()
    failing.check(groups_of([["raises", "raises"], ["raises", "a"]]))
    failing.check(groups_of([["raises", "raises"]]))  # was asked before


def test_a_reward_of_one_source_counts_where_it_is_asked():
    own = Source([EXAMPLE], rewards={BROKEN: 1.0})
    failing, terms = FailingRewards(), {"format": 1.0}
    failing.check(groups_of([["raises", "a"]], terms))
    with pytest.raises(UserError, match="on all 2 completions"):
        failing.check(groups_of([["a", "a"], ["raises", "nan"]], terms, [Source([EXAMPLE]), own]))
