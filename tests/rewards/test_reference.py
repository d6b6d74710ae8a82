"""The public implementation's values, worked out by hand from its published definition."""

import math
import os
import subprocess
import sys
import types

import pytest

from rrft_jax import evaluation, rewards

NAN = float("nan")
HALF = 0.5 * (math.cos(math.pi * (0.125 - 0.05) / 0.15) + 1)
CALLS = "f(1, 'a'), g(2, 'b')"


def tagged(answer):
    return f"<think>\na\n</think>\n<answer>{answer}</answer>"


# name, completion, answer, the public value, the right one
VALUES = [
    ("accuracy", tagged("4"), "4", 1, 1),
    ("accuracy", tagged("\n4\n"), "4", 1, 1),
    ("accuracy", tagged("4.0"), "4", 0, 1),
    ("accuracy", "The answer is 4.", "4", 1, 1),
    ("accuracy", "<answer>5</answer><answer>4</answer>", "4", 0, 0),
    ("accuracy", tagged("1,000"), "1000", 0, 1),
    ("math_accuracy", tagged("0"), "0", 0, 1),
    ("math_accuracy", "0", "0", 1, 1),
    ("math_accuracy", tagged("1"), "0", 0, 0),
    ("math_accuracy", tagged("nan"), "4", NAN, 0),
    ("math_accuracy", tagged("inf"), "4", 0, 0),
    ("math_accuracy", tagged("112.5"), "100", HALF, HALF),
    ("math_accuracy", tagged("-87.5"), "-100", HALF, HALF),
    ("math_accuracy", tagged("105"), "100", 1, 1),
    ("math_accuracy", tagged("1,050"), "1000", 0, 1),
    ("math_accuracy", tagged("B"), "B", 1, 1),
    ("format", tagged("4"), "4", 1, 1),
    ("format", tagged("4") + "\n", "4", 0, 1),
    ("format", tagged(""), "4", 1, 0),
    ("format", tagged("4</answer> more <answer>5"), "4", 1, 0),
    ("format", "<think></think> so <answer>4</answer>", "4", 0, 0),
    ("caption_format", "<summary>s</summary>\n<caption>c</caption>" + tagged("4"), "4", 1, 1),
    ("caption_format", "<summary></summary><caption></caption>" + tagged(""), "4", 1, 0),
    ("caption_format", tagged("4"), "4", 0, 0),
    ("transformation", tagged("f(1,'a'), g(2, b)"), CALLS, 1, 1),
    ("transformation", tagged('f("1", "a"), g(2, "b")'), CALLS, 0, 1),
    ("transformation", tagged("f(1, 'x')"), CALLS, 0.25, 0.25),
    ("transformation", tagged("f(9, 'a')"), CALLS, 0.25, 0.25),
    ("transformation", tagged("f(9, 'z'), f(9, 'z')"), CALLS, 0.0625, 0.0625),
    ("transformation", tagged("h(1, 'a')"), CALLS, 0, 0),
    ("transformation_full", tagged("f(1, 'a'), f(1, 'x')"), CALLS, 0.5, 0.5),
    ("transformation_penalty", tagged("f(1, 'a'), g(3, 'b')"), CALLS, 0.375, 0.375),
    ("transformation_penalty", tagged("f(9, 'z')"), CALLS, -0.25, -0.25),
    ("reasoning_steps", "Step 1: a\nStep 2: b", "4", 2 / 3, 2 / 3),
    ("reasoning_steps", "1. a\n2. b\n3. c", "4", 1 / 3, 1),
    ("reasoning_steps", "First, a. Next, b.\n- c\n* d", "4", 1, 1),
]


@pytest.mark.parametrize("name, completion, answer, public, right", VALUES)
def test_a_reward_has_the_public_value_and_the_right_one(name, completion, answer, public, right):
    example = types.SimpleNamespace(answer=answer)
    for mode, expected in {"reference": public, "default": right}.items():
        (value,) = rewards.score(name, [completion], example, mode=mode)
        assert value == pytest.approx(expected, abs=1e-9, nan_ok=True), mode


def test_length_within_a_group():
    example = types.SimpleNamespace(answer="4")
    group = [tagged("4"), tagged("4") + "x" * 10, tagged("5") + "x" * 5, tagged("5") + "x" * 10]
    values = rewards.score("length", group, example, mode="reference", step=800)
    assert values == pytest.approx([0.025, -0.025, 0, -0.025])
    assert rewards.score("length", group, example, mode="reference", step=799) == [0] * 4
    assert rewards.score("length", group[:1] * 4, example, mode="reference", step=800) == [0] * 4


def test_length_counts_tokens_where_it_is_told_them():
    example = types.SimpleNamespace(answer="4")
    group = [tagged("4"), tagged("4") + " antidisestablishmentarianism", tagged("4") + " a b c d"]
    by_words = rewards.score("length", group, example)
    assert by_words == pytest.approx([0.025, 0.0125, -0.025])
    told = rewards.score("length", group, example, lengths=[10, 30, 20])
    assert told == pytest.approx([0.025, -0.025, 0])
    wide = rewards.score("length", group, example, lengths=[10, 30, 20], step=3, start=3, scale=1)
    assert wide == pytest.approx([0.5, -0.5, 0])


@pytest.mark.parametrize(
    "task, completion, answer, public, right",
    [
        ("visual_counting", "<answer>4 things</answer>", "4", 1, 1),
        ("visual_counting", "<answer>5</answer>", "4", 0, 0),
        ("visual_counting", "4", "4", 1, 1),
        ("structure_perception", tagged("B"), "B", 1, 1),
        ("structure_perception", r"$\frac{3}{2}$", "1.5", 1, 1),
        ("spatial_transformation", tagged("f(1, 'a'), g(2, 'x')"), CALLS, 0.75, 0.75),
        # Over several lines the whole text is read, and a thought's calls count as an answer's.
        ("spatial_transformation", f"h(1, 'c')\n<answer>\n{CALLS}\n</answer>", CALLS, 2 / 3, 1),
        ("spatial_transformation", tagged("f(1, 'a'), f(1, 'a'), g(2, 'b')"), CALLS, 1, 1),
        ("spatial_transformation", "none", CALLS, 0, 0),
    ],
)
def test_an_evaluation_has_the_public_score_and_the_right_one(
    task, completion, answer, public, right
):
    assert evaluation.score(task, completion, answer, mode="reference") == pytest.approx(public)
    assert evaluation.score(task, completion, answer) == pytest.approx(right)


def test_values_depend_on_no_hash_seed():
    program = (
        "import types; from rrft_jax import rewards\n"
        "calls = ', '.join(f\"f({i}, '{v}')\" for i in range(4) for v in 'abcd')\n"
        "example = types.SimpleNamespace(answer=\"f(1, 'z'), f(2, 'b'), f(9, 'c'), g(1, 'a')\")\n"
        "print([rewards.score(n, [calls], example, mode=m) for n in rewards.names()\n"
        "       if n.startswith('transformation') for m in rewards.MODES])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(said) == 1
