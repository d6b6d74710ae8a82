"""Rewards put together: weights and options, rewards of one's own, what is refused."""

import re
import types
from pathlib import Path

import pytest

from rrft_jax import rewards
from rrft_jax.errors import UserError

EXAMPLE = types.SimpleNamespace(answer="B")


@pytest.mark.parametrize(
    "answer, solution, expected",
    [
        ("B", "B", 1),
        ("(B)", "B", 1),
        ("B.", "B", 1),
        ("B)", "B", 1),
        ("B: 12", "B", 1),
        ("B. 12 cm", "B", 1),
        ("(B) 12", "(B)", 1),
        ("b", "B", 1),
        ("A", "B", 0),
        ("Both", "B", 0),
        ("B or C", "B", 0),
        ("B.C", "B", 0),
        ("12", "B", 0),
        ("", "B", 0),
        ("4", "4", 0),
    ],
)
def test_choice(answer, solution, expected):
    for text in (answer, f"<think></think><answer> {answer} </answer>"):
        assert rewards.score("choice", [text], types.SimpleNamespace(answer=solution)) == [expected]


@pytest.mark.parametrize(
    "completion, expected",
    [
        ("<think>a</think><answer>4</answer>", 1),
        ("<think>a</think> so <answer></answer>", 1),
        ("<think>a</think>4", 0.5),
        ("<think>a<answer>4</answer>", 0.75),
        ("</answer><answer></think><think>", 0.25),
        ("<think><think></think><answer>4</answer>", 0.75),
        ("4", 0),
    ],
)
def test_tags(completion, expected):
    assert rewards.score("tags", [completion], EXAMPLE) == [expected]


@pytest.mark.parametrize(
    "text, size, expected",
    [
        ("a b c d e", 3, 0),
        ("a b c a b c", 3, -1 / 4),
        ("a a a a", 2, -2 / 3),
        ("", 3, 0),
        ("a", 3, 0),
    ],
)
def test_repetition(text, size, expected):
    assert rewards.score("repetition", [text], EXAMPLE, size=size) == [pytest.approx(expected)]


def test_overlong_falls_in_front_of_the_limit():
    lengths = [0, 60, 70, 80, 100, 500]
    values = rewards.score("overlong", [""] * 6, EXAMPLE, lengths=lengths, limit=100, margin=40)
    assert values == pytest.approx([0, 0, -0.25, -0.5, -1, -1])
    assert rewards.score("overlong", ["a " * 600], EXAMPLE) == [-1]


def test_terms_have_weights_and_options():
    read = rewards.read_terms(
        {"accuracy": 1, "length": {"weight": 0.5, "start": 10}, "math.prod": 2.0}
    )
    assert [(term.name, term.weight, term.options) for term in read] == [
        ("accuracy", 1.0, {}),
        ("length", 0.5, {"start": 10}),
        ("math.prod", 2.0, {}),
    ]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"luck": 1}, "grpo.rewards.luck: reward 'luck': expected one of format, .*dotted path"),
        ({"no.such": 1}, "grpo.rewards.no.such: .*No module named 'no'"),
        ({"math.luck": 1}, "'math' has no attribute 'luck'"),
        ({"math.pi": 1}, "'math.pi': expected one of .*dotted path of a function"),
        ({"format": "1"}, "grpo.rewards.format: expected a weight, found '1'"),
        ({"format": True}, "expected a weight"),
        ({"format": float("nan")}, "finite"),
        ({"length": {"weight": 1, "begin": 3}}, "no option 'begin': expected one of scale, start"),
        ({"format": {"strict": 1}}, "no option 'strict': expected one of empty_thought"),
        ({"tags": {"strict": 1}}, "no option 'strict': expected one of none"),
        ({"format": {"mode": "odd"}}, "mode: expected one of default, reference"),
    ],
)
def test_terms_that_make_no_sense_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        rewards.read_terms(given, "grpo.rewards")


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match="'odd': expected one of default, reference"):
        rewards.score("format", ["a"], EXAMPLE, mode="odd")


@pytest.mark.parametrize(
    "page, module, reward, extra, group, values",
    [
        (
            "rewards",
            "rewards",
            "near",
            {"price": 100},
            ["It is 95.", "I say 120", "free"],
            [1, 0, 0],
        ),
        (
            *("own-task", "boxes", "iou", {"boxes": [0, 0, 10, 10]}),
            ["<answer>[0, 0, 10, 10]</answer>", "<answer>[0,0,10,5]</answer>", "no box"],
            [1, 0.5, 0],
        ),
    ],
)
def test_the_documented_reward_runs(
    tmp_path, monkeypatch, page, module, reward, extra, group, values
):
    text = (Path(__file__).parents[2] / f"docs/{page}.md").read_text()
    (code,) = re.findall(rf"```python\n# mypackage/{module}.py\n(.+?)```", text, re.DOTALL)
    package = tmp_path / f"documented_{module}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"documented_{module}.mine.{reward}"
    example = types.SimpleNamespace(answer="", extra=extra)
    assert rewards.score(name, group, example) == pytest.approx(values)

    class Local:  # which a worker can't import
        pass

    Local.answer, Local.extra = example.answer, extra
    assert rewards.score(name, group, Local()) == pytest.approx(values)
