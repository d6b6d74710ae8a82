"""A user's reward: a completion that it fails on is worth 0 alone, and what is wrong is said."""

import re
import types

import pytest

from rrft_jax import rewards
from rrft_jax.errors import UserError
from rrft_jax.rewards import guard
from rrft_jax.tasks import Example

EXAMPLE = types.SimpleNamespace(answer="5")
BROKEN, ODD, RELATIVE, ONLY_ALONE = (
    f"tests.rewards.victims.{name}" for name in ("broken", "odd", "relative", "only_alone")
)


@pytest.fixture(autouse=True)
def impatient():
    with guard.limit(0.5):
        yield


@pytest.mark.parametrize("how", ["raises", "hangs", "dies"])
def test_a_completion_that_breaks_the_reward_zeroes_itself_alone(how):
    before = rewards.failures()
    scores = rewards.scores(BROKEN, ["a", how, "b", "c"], EXAMPLE)
    assert scores.values == [3, 0, 3, 3]  # the others are still a group
    assert rewards.failures() - before == 1
    (failure,) = scores.failures
    assert failure.text == how and failure.timed_out == (how == "hangs")
    assert ("KeyError: 'no box'" == failure.reason) == (how == "raises")


@pytest.mark.parametrize("what", ["nan", "inf", "none", "text", "row"])
def test_a_value_that_is_no_number_zeroes_its_completion_alone(what):
    scores = rewards.scores(BROKEN, ["a", what, "b"], EXAMPLE)
    assert scores.values == [3, 0, 3]
    assert [failure.text for failure in scores.failures] == [what]
    assert "for a completion; expected a finite number" in scores.failures[0].reason


def test_a_reward_that_changes_the_list_has_to_give_as_many_values_all_the_same():
    scores = rewards.scores("tests.rewards.victims.emptying", ["a", "b", "c"], EXAMPLE)
    assert scores.values == [1, 0, 1]
    ((text, reason),) = [(failure.text, failure.reason) for failure in scores.failures]
    assert text == "b" and "returned a list of length 0; expected one number for each" in reason


def test_every_failing_completion_is_counted():
    before = rewards.failures()
    assert rewards.score(BROKEN, ["raises", "a", "dies", "nan", "b"], EXAMPLE) == [0, 2, 0, 0, 2]
    assert rewards.score(BROKEN, ["raises", "raises"], EXAMPLE) == [0, 0]
    assert rewards.score(BROKEN, ["raises"], EXAMPLE) == [0]
    assert rewards.score(BROKEN, [], EXAMPLE) == []
    assert rewards.failures() - before == 6


def test_the_others_keep_their_own_lengths():
    values = rewards.score(RELATIVE, ["a", "raises", "b"], EXAMPLE, lengths=[3, 9, 5])
    assert values == [2, 0, 0]


@pytest.mark.parametrize("kind", ["list", "tuple", "numpy", "numpy scalars", "jax"])
@guard.limit(60)  # to import JAX takes seconds
def test_a_list_or_an_array_of_numbers_is_fine(kind):
    assert rewards.score(ODD, ["a", "bb", "ccc"], EXAMPLE, kind=kind) == [1, 2, 3]


def test_truth_values_are_numbers():
    assert rewards.score(ODD, ["a", "bb"], EXAMPLE, kind="bools") == [0, 1]


@pytest.mark.parametrize(
    "kind, said",
    [
        ("None", "None"),
        ("one number", "the single number 1.0"),
        ("one numpy number", "the single number "),
        ("text", "the text '111'"),
        ("short", "a list of length 1"),
        ("long", "a list of length 4"),
        ("column", r"an array of shape \(3, 1\)"),
        ("matrix", r"an array of shape \(3, 3\)"),
        ("dict", "a dict"),
        ("generator", "a generator"),
        ("coroutine", "a coroutine"),
    ],
)
def test_a_result_of_no_use_is_said(kind, said):
    scores = rewards.scores(ODD, ["a", "bb", "ccc"], EXAMPLE, kind=kind)
    assert scores.values == [0, 0, 0] and len(scores.failures) == 3
    expected = "expected one number for each of the 3 completions, a list of length 3"
    for failure in scores.failures:
        assert re.fullmatch(f"returned {said}.*; {expected}", failure.reason), failure.reason
        assert not failure.traceback


def test_a_reward_that_fails_on_groups_alone_is_called_for_each_completion():
    scores = rewards.scores(ONLY_ALONE, ["a", "bb"], EXAMPLE)
    assert scores.values == [1, 2] and not scores.failures
    broken = rewards.scores("tests.rewards.victims.pairs", ["a", "raises", "b"], EXAMPLE)
    assert broken.values == [1, 0, 1]  # "a" and "b" are worth something alone
    assert [failure.text for failure in broken.failures] == ["raises"]


@pytest.mark.parametrize("text", ["raises", "hangs", "dies"])
def test_a_group_of_failing_completions_only_is_all_zero(text):
    scores = rewards.scores(BROKEN, [text, text], EXAMPLE)
    assert scores.values == [0, 0] and len(scores.failures) == 2


def test_a_reward_sees_the_columns_of_the_row():
    row = Example("a", (), "Where?", "", None, "custom", extra={"boxes": [3, 4]})
    scores = rewards.scores("tests.rewards.victims.of_row", ["3", "no number", "5"], row)
    assert scores.values == [1, 0, 0]  # the one that breaks it alone
    ((text, reason),) = [(failure.text, failure.reason) for failure in scores.failures]
    assert text == "no number" and reason.startswith("ValueError")
    missing = rewards.scores("tests.rewards.victims.of_row", ["3"], row, column="masks")
    assert missing.failures[0].reason == "KeyError: 'masks'"


@pytest.mark.parametrize(
    "name, said",
    [
        ("waits", "is async.*write `def`, not `async def`"),
        ("waits_too", "is async"),
        ("yields", "is a generator: return a list"),
    ],
)
def test_a_function_that_returns_no_values_is_refused_before_it_is_called(name, said):
    with pytest.raises(UserError, match=f"^grpo.rewards.*{name}: reward '.*{name}' {said}"):
        rewards.read_terms({f"tests.rewards.victims.{name}": 1.0}, "grpo.rewards")


def test_a_module_that_breaks_is_said(tmp_path, monkeypatch):
    (tmp_path / "breaks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="'breaks.f': its module can't be imported: ZeroDivision"):
        rewards.read_terms({"breaks.f": 1.0})
