"""Equality of answers: one for tags and none, symmetric, and never read out of prose."""

import itertools
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrft_jax import evaluation, rewards
from rrft_jax.rewards import answers, guard

# Spellings of one answer each: any two in a line are equal.
ALIKE = [
    ["60", "60°", "60º", r"60^\circ", r"$60^{\circ}$", "60 degrees", r"60\degree", "60^o"],
    ["1/2", r"\frac{1}{2}", r"\dfrac12", r"\tfrac 1 2", r"\frac1{2}", "0.5", ".5", "½", "1⁄2"],
    ["-3/4", r"-\frac{3}{4}", r"\frac{-3}{4}", "−0.75", "-¾"],
    ["3/2", r"1\frac{1}{2}", "1 1/2", "1½", "1.5"],
    [r"$2\sqrt{221}$", r"2 \sqrt { 221 }", "2√221", r"\sqrt{884}", "2 sqrt(221)"],
    [r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt2}{2}", r"\sqrt{1/2}", "√2/2"],
    ["72", "$72$", r"\boxed{72}", r"$\boxed{72}$", r"\(72\)", r"\[ 72 \]", "**72**", "７２"],
    ["1,000", "1000", "1{,}000", r"1\,000", "1，000", "10^3", "1e3", r"1 \times 10^{3}"],
    ["1,234,567.5", "1234567.5"],
    ["-5", "−5", "－5", "–5", "$-5$", "-5.0"],
    [r"8\sqrt{3}", r"8\sqrt3", r"$8 \sqrt{3}$", "8√3", r"\sqrt{192}"],
    [r"4\pi", "4π", "4 pi", r"$4 \pi$", r"\pi \times 4"],
    [r"\sqrt[3]{54}", r"3\sqrt[3]{2}"],
    ["2xy + 1", "1+2yx", "2 x y+1"],
    ["(x+1)^2", "x^2+2x+1", "x²+1+2x"],
    [r"\frac{1+\sqrt{5}}{2}", r"\frac{\sqrt{5}}{2} + 0.5"],
    [r"\frac{1}{1+\sqrt{2}}", r"\sqrt{2} - 1"],
    [r"\displaystyle\frac{1}{4}", "25%", r"\mathbf{0.25}", "１／４", "(0.25)"],
    ["(3,4)", "(3, 4)", r"\left(3, 4\right)", "（3，4）"],
    [r"\{1,2\}", r"\{2, 1\}", r"\left\{1, 2\right\}"],
    ["B", "(B)", "B.", "B)", "B: 12", "B、12", "（B）", "B：12", "Ｂ", "b", r"\boxed{B}", "【B】"],
    ["B", "B：红色", "B.红色", "B:red", '"B"', "B,"],
    ["B", "Option B", "option (B)", "选项B", "the answer is B"],
    ["AC", "A, C", "A and C", "A、C", "(A)(C)", "A C", "(A), (C)", r"\boxed{A, C}"],
    ["Yes", r"\text{Yes}", "**Yes**", "Yes.", "yes", "YES", "'yes'", "“Yes.”"],
    ["Light blue", "light blue"],
    ["A red cube", "a red cube"],
    ["Yes, it is", "yes, it is."],
    ["St. Louis", "st. Louis"],
    ["12%", "12 per cent", "12 percent"],
    ["3", r"\lvert -3 \rvert", "|-3|"],
    [r"\triangle ABC", "△ABC"],
    ["2:3", "2 : 3", "2∶3"],
    [r"1:\sqrt{3}", r"1 : \sqrt 3", "1:√3", r"$1 : \sqrt{3}$"],
    [r"\sin 30^\circ", r"\sin{30^\circ}", "sin 30°"],
    [r"x \ge 5", "x≥5"],
]  # fmt: skip
# A unit may be left out, a name in front too, and 50 is the number of percents.
OPTIONAL = [
    ["5", "5 cm", "5cm", r"5\text{ cm}", r"$5\,\mathrm{cm}$", "5 centimetres", "５ｃｍ", "$5$ cm"],
    ["5", "5 CM", "5 Centimeters", "5厘米", "5 cm,", '"5 cm"'],
    ["60", "60 Degrees", "60度"],
    ["5", "5€", "€5", "5 euros"],
    ["5", "5 m", "5 meters", r"5\ \text{m}"],
    ["12", "12 cm^2", "12 cm²", r"12\text{ cm}^2", r"12\ \mathrm{cm}^{2}", "12 square centimeters"],
    ["5", "5 m/s", r"5 \text{ m/s}", "5 meters per second"],
    [r"4\pi", r"4\pi \text{ cm}", "4π cm"],
    ["5", "5 units", "5 square units"],
    ["5", r"\$5", "5 dollars"],
    ["50", "50%", r"50\%", r"$50\%$", "50 percent", "50％"],
    ["0.5", "50%", r"\frac{50}{100}", r"50\%"],
    ["5", "x=5", "$x = 5$", "x = 5.0"],
    ["60", r"\angle ABC = 60^\circ", "∠ABC = 60"],
]
APART = [
    ("5 cm", "5 m"), ("5 cm", "5 cm^2"), ("60°", "60 cm"), ("5%", "5 cm"), ("50%", "5"),
    ("5 m", "5 m/s"), ("x=5", "y=5"), ("x=5", "x=6"), ("2", "x = 2y"),
    (r"8\sqrt{3}", "8"), (r"4\pi", "4"), (r"4\pi", "3.14"), (r"2\sqrt{3}", "2"), ("5x", "5"),
    (r"\frac{1}{2}", "12"), (r"\sqrt{3}", "3"), ("5²", "52"), ("1½", "11/2"), ("2^3", "23"),
    ("0,500", "500"), ("0,500", "0.5"), ("1234,567", "1234567"), ("1,23", "123"), ("3,5", "3.5"),
    ("1,2345", "12345"), ("12,34,567", "1234567"), ("1/3", "0.333333"), ("4.0000000001", "4"),
    ("A", "5"), ("B", "C"), ("B: 12", "12"), ("B、12", "12"), ("A、B", "A"), ("(A) or (C)", "A"),
    ("(3,4)", "(4,3)"), ("(1,2)", "[1,2]"), ("1, 2", "2"),
    ("2:3", "3:2"), ("2:3", "2"), ("2:3", "2, 3"), ("on", "no"), ("Yes", "No"), ("-5", "5"),
    ("9**9**9", "5"), ("≥5", "5"), (r"\le 5", "5"), ("U.S.", "U"),
    (r"\neq 5", "5"), ("> 5", "5"), ("≤ 5", "≥ 5"), ("x > 5", "x < 5"),
    (r"5 \ne", "5"), ("AC", "CA"), ("A, C", "C, A"), ("A, C", "A"), ("AC", "C"), ("A:B", "A"),
    ("5 Mm", "5 mm"), ("5米", "5 cm"), ("5€", r"\$5"),
    ("9^{9^9}", "9"), (r"\infty", "5"), ("1/0", "1"), ("", "5"), ("nan", "5"),
]  # fmt: skip
# Each has the number in it.
PROSE = [
    "5 or 6", "5 and 6", r"5 \text{ or } 6", "$5$ or $6$", "5; 6", "5, 6", "5 6", "5 to 6", "5/6",
    "not 5", "about 5", "5 red ones", "The answer is 5", "x = 5 or x = 6", "x=5, y=6", "5 (or 6)",
    "5 cm or 6 cm", "5 = 5 + 0, so 6", "(5", "5)", r"\text{about } 5", "5?", "5!", "5 e",
    r"5 \ldots", r"\not 5", r"\neg 5", r"5 \approx 5.01", r"5 \vee 6", r"5 \quad 6",
]  # fmt: skip


def tagged(answer):
    return f"<think>a</think>\n<answer> {answer} </answer>"


def right(name, completion, solution):
    (value,) = rewards.score(name, [completion], types.SimpleNamespace(answer=solution))
    return value == 1


def equal(a, b):
    """What all comparisons say, tags or not, this way and the other: they agree."""
    said = set()
    for one, other in ((a, b), (b, a)):
        for text in (tagged(one), one):
            said |= {right("accuracy", text, other), right("accuracy", text, tagged(other))}
            said.add(evaluation.score("structure_perception", text, other) == 1)
    assert len(said) == 1, (a, b, said)
    return said.pop()


@pytest.mark.parametrize("spellings", ALIKE, ids=lambda line: line[0])
def test_spellings_of_one_answer_are_equal(spellings):
    for a, b in itertools.combinations(spellings, 2):
        assert equal(a, b), (a, b)
    for a in spellings[1:]:
        assert right("math_accuracy", tagged(a), spellings[0])


@pytest.mark.parametrize("spellings", OPTIONAL, ids=lambda line: line[1])
def test_a_unit_or_a_name_may_be_left_out(spellings):
    for a, b in itertools.combinations(spellings, 2):
        assert equal(a, b), (a, b)


@pytest.mark.parametrize("a, b", APART)
def test_other_answers_are_not_equal(a, b):
    assert not equal(a, b)


def test_several_options_are_a_choice():
    for text, expected in (("A, C", True), ("AC", True), ("(A) and (C)", True), ("A", False)):
        assert right("choice", tagged(text), "A and C") == expected


@pytest.mark.parametrize("text", PROSE)
def test_inside_tags_no_answer_is_read_out_of_prose(text):
    for name in ("accuracy", "math_accuracy"):
        assert not right(name, tagged(text), "5")


@pytest.mark.parametrize(
    "text, solution, expected",
    [
        ("It's 4.", "4", True),
        ("The answer is 4 because 9 - 5 = 4, and 5 are gone.", "4", True),
        ("We have 3 + 4 = 7 things", "7", True),
        ("There are 5 in the box", "5", True),
        ("(a) 4", "4", True),
        (r"The answer is 8\sqrt{3}.", "8", False),
        (r"The answer is 8\sqrt{3}.", r"8\sqrt{3}", True),
        (r"Thus we get 2 \sqrt{3} cm", r"2\sqrt{3}", True),
        (r"Thus \boxed{\frac{1}{2}}, and not 3", "0.5", True),
        ("The area is 5 cm.", "5 cm", True),
        ("The area is 5 cm.", "5", True),
        ("The area is 5 cm.", "5 m", False),
        ("The answer is 0,500.", "500", False),
        ("It's 1,234.", "1234", True),
        ("The answer is B.", "B", True),
        ("Answer: (C) 12", "C", True),
        ("答案是 5。", "5", True),
        ("**Answer:** 60°", "60", True),
        ("It is 5 or 6", "6", False),
        ("It is −4", "4", False),
        ("four", "4", False),
    ],
)
def test_without_tags_the_answer_may_stand_in_prose(text, solution, expected):
    assert right("accuracy", text, solution) == expected
    assert (evaluation.score("structure_perception", tagged(text), solution) == 1) == expected


@pytest.mark.parametrize(
    "spelling", ["B、12", "（B）", "B：12", "Ｂ", r"\text{(B)}", "**B**", "$B$"]
)
def test_an_option_is_read_in_any_spelling(spelling):
    for name in ("choice", "accuracy", "math_accuracy"):
        for text in (tagged(spelling), spelling):
            assert right(name, text, "B") and right(name, text, "(B)")
            assert not right(name, text, "C") and not right(name, text, "12")


@pytest.mark.parametrize("text", ["A、B", "A, B", "(A) or (C)", "A and B", "A: B", "12", "Both"])
def test_several_options_are_none(text):
    assert not right("choice", tagged(text), "A")


def test_a_near_miss_counts_in_any_spelling_but_not_in_another_unit():
    for answer, solution in [("61°", "60"), ("60.5", r"60^\circ"), (r"2\sqrt{3}", "3.46")]:
        assert right("math_accuracy", tagged(answer), solution)
    for answer, solution in [("61 cm", "60 m"), (r"8\sqrt{3}", "8"), (r"4\pi", "4"), ("61", "x=0")]:
        assert not right("math_accuracy", tagged(answer), solution)


def test_plain_answers_and_prose_need_no_worker(monkeypatch):
    monkeypatch.setattr(guard, "call", lambda *_, **__: pytest.fail("asked math-verify"))
    for text in ["4", r"\frac{1}{2}", r"2\sqrt{221}", "60°", "B", "the answer is 4.", "9**9**9"]:
        right("accuracy", text, "4")
        right("math_accuracy", tagged(text), r"\sqrt{2}")


SIGNS = st.sampled_from(
    r"1 2 12 0.5 1,000 , . : = + - * / ^ ( ) [ ] { } \{ \} $ % ° x y pi B cm m or − ½ ² √ × 、"
    r" \frac \sqrt \pi \circ \text{cm} \boxed \sin \le \, **".split()
)
TEXTS = st.lists(st.one_of(SIGNS, st.just(" ")), max_size=9).map("".join)
SPELLINGS = st.sampled_from([text for line in ALIKE + OPTIONAL for text in line])


@settings(max_examples=600, deadline=None)
@given(st.one_of(TEXTS, SPELLINGS), st.one_of(TEXTS, SPELLINGS))
def test_equality_is_symmetric_and_of_everything_with_itself(a, b):
    one, other = answers.read(a), answers.read(b)
    assert answers.same(one, other) == answers.same(other, one)
    assert answers.same(one, one) or not one.text


@settings(max_examples=200, deadline=None)
@given(
    st.fractions(max_denominator=60).filter(lambda x: abs(x) < 10**6), st.sampled_from(["", "°"])
)
def test_every_spelling_of_a_fraction_is_equal(value, unit):
    n, d = value.numerator, value.denominator
    sign = "-" if n < 0 else ""
    spellings = [f"{n}/{d}", rf"\frac{{{n}}}{{{d}}}", rf"${sign}\dfrac{{{abs(n)}}}{{{d}}}{unit}$"]
    spellings += [f"{n:,}", f"−{-n}" if n < 0 else f"+{n}"] if d == 1 else []
    for a, b in itertools.permutations(map(answers.read, spellings), 2):
        assert answers.same(a, b) is True
    assert answers.same(answers.read(spellings[0]), answers.read(f"{n + 1}/{d}")) is False
