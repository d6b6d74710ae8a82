"""Rewards: the published definitions, without their known defects."""

import threading
import types

import pytest

from rrft_jax import rewards
from rrft_jax.errors import UserError
from rrft_jax.rewards.transformation import parse_calls, partial_credit


def example(answer, task="visual_counting"):
    return types.SimpleNamespace(answer=answer, task=task)


def tagged(answer):
    return f"<think>\nsome\nthought\n</think>\n<answer>\n{answer}\n</answer>"


@pytest.mark.parametrize(
    "completion, expected",
    [
        (tagged("3"), 1),
        (tagged("3") + "\n", 1),
        ("<think></think><answer>3</answer>", 0),
        ("<think>\n\n</think>\n\n<answer>3</answer>", 0),
        ("", 0),
        ("3", 0),
        (tagged(""), 0),
        (tagged("  \n"), 0),
        ("so " + tagged("3"), 0),
        (tagged("3") + " indeed", 0),
        (tagged("3</answer> more <answer>4"), 0),
        (tagged("3") + tagged("3"), 0),
        ("<think>a<think>b</think><answer>3</answer>", 0),
        ("<answer>3</answer><think>a</think>", 0),
        ("<think>a<answer>3</answer></think>", 0),
        ("<think>a</think>b<answer>3</answer>", 0),
        ("<think>a</think><answer>3", 0),
    ],
)
def test_format(completion, expected):
    assert rewards.score("format", [completion], example("3")) == [expected]


def test_an_empty_thought_is_accepted_where_the_model_may_choose():
    texts = [
        "<think>\n\n</think>\n<answer>3</answer>",
        tagged("3"),
        "<think></think><answer></answer>",
    ]
    assert rewards.score("format", texts, example("3"), empty_thought=True) == [1, 1, 0]


@pytest.mark.parametrize(
    "answer, solution, expected",
    [
        ("4", "4", 1),
        ("4.0", "4", 1),
        (" 4 ", "4", 1),
        ("0", "0", 1),
        ("-0", "0", 1),
        ("1,000", "1000", 1),
        ("1/2", "0.5", 1),
        ("1e3", "1000", 1),
        ("A", "A", 1),
        ("3", "4", 0),
        ("-4", "4", 0),
        ("", "4", 0),
        ("A", "B", 0),
        ("nan", "4", 0),
        ("inf", "4", 0),
        ("1/0", "4", 0),
        ("4.0000000001", "4", 0),
        ("1e99999999999", "4", 0),
        ("9" * 5000, "4", 0),
        ("4 red ones", "4", 0),
    ],
)
def test_accuracy_inside_tags(answer, solution, expected):
    assert rewards.score("accuracy", [tagged(answer)], example(solution)) == [expected]


@pytest.mark.parametrize(
    "completion, solution, expected",
    [
        ("4", "4", 1),
        ("The answer is 4.", "4", 1),
        (r"$\frac{1}{2}$", "0.5", 1),
        (r"$2\sqrt{3}$", r"2\sqrt{3}", 1),
        (r"50^\circ", "50", 1),
        ("The answer is 5.", "4", 0),
        ("four", "4", 0),
        ("<answer>5</answer> or <answer>4</answer>", "4", 0),
        ("<answer>4</answer> or <answer>5</answer>", "4", 1),
        ("</answer>4", "4", 0),
    ],
)
def test_accuracy_without_tags_or_with_many(completion, solution, expected):
    assert rewards.score("accuracy", [completion], example(solution)) == [expected]


@pytest.mark.parametrize("name", ["accuracy", "math_accuracy", "choice"])
def test_a_solution_may_stand_inside_tags(name):
    letter = name == "choice"
    right, wrong = ("B", "C") if letter else ("4", "9")
    group = [tagged(right), right, tagged(wrong)]
    assert rewards.score(name, group, example(f"<answer> {right} </answer>")) == [1, 1, 0]


@pytest.mark.parametrize(
    "answer, solution, expected",
    [
        ("100", "100", 1),
        ("105", "100", 1),
        ("95", "100", 1),
        ("-105", "-100", 1),
        ("112.5", "100", 0.5),
        ("87.5", "100", 0.5),
        ("110", "100", 0.75),
        ("115", "100", 0.25),
        ("120", "100", 0),
        ("80", "100", 0),
        ("-100", "100", 0),
        ("1,050", "1000", 1),
        ("2/3", "0.66", 1),
        ("0", "100", 0),
        ("0", "0", 1),
        ("0.0", "0", 1),
        ("0.001", "0", 0),
        ("nan", "100", 0),
        ("nan", "nan", 1),
        ("inf", "100", 0),
        ("1e99", "1e-99", 0),
        ("B", "B", 1),
        ("C", "B", 0),
        ("4", "B", 0),
        ("B", "4", 0),
        ("", "4", 0),
    ],
)
def test_math_accuracy(answer, solution, expected):
    for completion in (tagged(answer), answer):
        (score,) = rewards.score("math_accuracy", [completion], example(solution))
        assert score == pytest.approx(expected, abs=1e-12)


def test_math_accuracy_reads_mathematics():
    completions = [r"$2\sqrt{3}$", tagged(r"2\sqrt{3}"), tagged(r"$2\sqrt{3}$ cm"), tagged("2")]
    assert rewards.score("math_accuracy", completions, example(r"2\sqrt{3}")) == [1, 1, 1, 0]


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("f(1, 'a'), g(2, 'b')", 1),
        ('g("2", "B")\nf( 1 ,a)', 1),
        ("f(1, 'a')", 1 / 2),
        ("f(1, 'a'), g(2, 'x')", 1 / 2),
        ("f(1, 'a'), g(2, 'b'), h(3, 'c')", 2 / 3),
        ("f(1, 'a'), f(1, 'a'), g(2, 'b')", 2 / 3),
        ("f(1, 'a'), f(1, 'a'), f(1, 'a')", 1 / 2 / 3),
        ("f(9, 'a'), g(2, 'z')", 0),
        ("f", 0),
        ("", 0),
    ],
)
def test_transformation_full(answer, expected):
    solution = example("f(1, 'a'), g(2, 'b')", "spatial_transformation")
    scores = rewards.score("transformation_full", [tagged(answer), answer], solution)
    assert scores == [pytest.approx(expected)] * 2
    assert rewards.score("transformation_full", [tagged(answer)], example("3")) == [0]


def test_accuracy_works_in_a_thread():
    scores = []
    thread = threading.Thread(
        target=lambda: scores.extend(rewards.score("accuracy", ["It's 4."], example("4")))
    )
    thread.start()
    thread.join()
    assert scores == [1]


def test_accuracy_compares_calls_as_sets():
    solution = example("change_color(1, 'red'), change_size(0, 'small')", "spatial_transformation")
    right = 'change_size("0","small")\nchange_color( 1 , red )'
    more = right + ", change_size(2, 'small')"
    completions = [tagged(right), right, tagged(more), tagged("change_size(0,'small')"), ""]
    assert rewards.score("accuracy", completions, solution) == [1, 1, 0, 0, 0]


def test_scores_a_group_in_order():
    group = [tagged("1"), tagged("2"), "2"]
    assert rewards.score("accuracy", group, example("2")) == [0, 1, 1]
    assert rewards.score("format", group, example("2")) == [1, 1, 0]


def test_unknown_reward_lists_the_names():
    with pytest.raises(UserError, match="'luck'.*format.*accuracy"):
        rewards.score("luck", [], example("2"))


def test_parse_calls():
    text = """change_shape(3, 'cube'), Change_Color("4","Light Blue");
    change_position('5',front_left) f() g(1) h(1,2,3) i(,) change_size(1, 'small'"""
    assert parse_calls(text) == [
        ("change_shape", "3", "cube"),
        ("change_color", "4", "light blue"),
        ("change_position", "5", "front_left"),
    ]
    assert parse_calls("f" * 50_000 + " (" * 50_000 + " " * 50_000) == []


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("f(1,'a'), g(2,'b')", 1),
        ("g(2,'b')\nf(1,'a')", 1),
        ("f(1,'a'), g(2,'b'), g(2,'b')", 1),
        ("f(1,'a')", 1 / 2),
        ("f(1,'a'), g(2,'b'), h(3,'c')", 2 / 3),
        ("f(1,'z'), g(2,'b')", 1.5 / 2),
        ("f(9,'a'), g(2,'b')", 1.5 / 2),
        ("f(9,'z'), g(2,'b')", 1.25 / 2),
        ("f(1,'x'), f(1,'a')", 1 / 2),
        ("h(1,'a')", 0),
        ("nothing", 0),
    ],
)
def test_partial_credit(answer, expected):
    assert partial_credit(answer, "f(1, 'a'), g(2, 'b')") == pytest.approx(expected)


def test_partial_credit_does_not_depend_on_order():
    calls = ["f(1,'a')", "f(1,'b')", "f(2,'a')"]
    solution = "f(1,'c'), f(3,'a')"
    scores = {partial_credit(", ".join(calls[i:] + calls[:i]), solution) for i in range(3)}
    assert len(scores) == 1
