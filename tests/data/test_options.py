"""Options stand under their question, and an answer that means one of them is its letter."""

import json

import pytest

from rrft_jax.data import BadSample, read_examples

LINES = "Which?\nA. red\nB. blue\nC. dark blue"
LISTED = ["red", "blue", "dark blue"]


def _read(tmp_path, *rows):
    good = {"problem": "How many?", "answer": "1"}
    (tmp_path / "data.json").write_text(json.dumps([good, *rows]))
    return read_examples(str(tmp_path / "data.json"), "structure_perception", "train")[1:]


def _row(options, answer="B", key="options", problem="Which?"):
    return {"problem": problem, key: options, "answer": answer}


def _refused(tmp_path, row):
    (bad,) = _read(tmp_path, row)
    assert isinstance(bad, BadSample) and bad.cause == "malformed", bad
    return str(bad).partition("sample 1: ")[2]


@pytest.mark.parametrize("key", ["options", "choices", "option", "candidates", "answer_choices"])
@pytest.mark.parametrize(
    "options",
    [
        LISTED,
        ["A. red", "B. blue", "C. dark blue"],
        ["(A) red", "(B) blue", "(C) dark  blue"],
        ["A) red", "B) blue", "C) dark blue"],
        ["a: red", "b: blue", "c: dark blue"],
        {"A": "red", "B": "blue", "C": "dark blue"},
        {"c": "dark blue", "a": "red", "b": "blue", "d": None},
    ],
)
def test_options_are_written_under_the_question(tmp_path, key, options):
    plain, chat = _row(options, key=key), _row(options, key=key)
    del chat["problem"], chat["answer"]
    chat["messages"] = [
        {"role": "user", "content": "<image>Which?"},
        {"role": "assistant", "content": "<think>Blue.</think><answer>B</answer>"},
    ]
    for example in _read(tmp_path, plain, chat | {"image": "a.png"}):
        assert (example.problem, example.answer) == (LINES, "B")


def test_options_under_their_letters(tmp_path):
    (example,) = _read(tmp_path, {"problem": "Which?", "A": 1, "B": 2.5, "answer": "2.5"})
    assert (example.problem, example.answer) == ("Which?\nA. 1\nB. 2.5", "B")


@pytest.mark.parametrize(
    "problem",
    [
        LINES,
        "Which?\nA: red\nB: blue\nC: dark blue",
        "Which? Choices: (A) red (B) blue (C) dark blue",
        "Choose from\nA) red, B) blue, C) dark\nblue. Which?",
    ],
)
def test_options_that_the_question_has_are_not_repeated(tmp_path, problem):
    (example,) = _read(tmp_path, _row(LISTED, problem=problem))
    assert example.problem == problem


def test_a_part_of_an_option_is_not_the_option(tmp_path):
    (example,) = _read(tmp_path, _row(["1", "2"], "A", problem="Is plan A. 12 or plan B. 25 it?"))
    assert example.problem.endswith("it?\nA. 1\nB. 2")


def test_pictures_inside_of_a_question_with_options(tmp_path):
    row = _row(["in <image>", "in none"], problem="Where?") | {"image": "a.png"}
    (example,) = _read(tmp_path, row)
    assert example.question == "Where?\nA. in <image>\nB. in none"


@pytest.mark.parametrize(
    "answer, letter",
    [
        ("B", "B"), ("b", "B"), ("(B)", "B"), ("B.", "B"), ("B. blue", "B"), ("(b) blue", "B"),
        ("blue", "B"), ("Blue", "B"), ("dark  blue", "C"), ("<answer>blue</answer>", "B"),
        ("<think>Blue.</think><answer>(B)</answer>", "B"), ("AC", "AC"), ("A, C", "A, C"),
        (0, "A"), ("0", "A"), (3, "C"), ("3", "C"), (r"\boxed{B}", "B"), ("$B$", "B"), ("Ｂ", "B"),
        ("Option B", "B"), ("The answer is (B).", "B"), ("**blue**", "B"),
    ],
)  # fmt: skip
def test_an_answer_is_the_letter_of_its_option(tmp_path, answer, letter):
    (example,) = _read(tmp_path, _row(LISTED, answer))
    assert example.answer == letter


@pytest.mark.parametrize("answer", ["30", "30°", r"$30^{\circ}$", "30 degrees"])
def test_an_answer_is_the_option_of_its_value(tmp_path, answer):
    (example,) = _read(tmp_path, _row([r"$60^\circ$", r"$30^\circ$"], answer))
    assert example.answer == "B"


@pytest.mark.parametrize(
    "options, answer, message",
    [
        (LISTED, "D", "the answer 'D' is none of the options A. red; B. blue; C. dark blue"),
        (LISTED, "green", "the answer 'green' is none of"),
        (LISTED, "A. blue", "the answer 'A. blue' is none of"),
        (LISTED, "AD", "the answer 'AD' is none of"),
        (LISTED, 7, "the answer '7' is none of"),
        (LISTED, 1, "the answer '1' may mean several of"),
        (LISTED, "2", "the answer '2' may mean several of"),
        (["1", "2", "3"], 2, "the answer '2' may mean several of"),
        (["red", "red"], "red", "the answer 'red' may mean several of"),
        (["b", "a"], "B", "the answer 'B' may mean several of"),
        (["B", "A"], "A", "the answer 'A' may mean several of"),
        (LISTED, ["red"], "'answer' is list, ['red']; expected a text or a number"),
        ("red, blue", "A", "'options' is 'red, blue'; expected a list of texts, or a mapping of A"),
        ([["red"]], "A", "'options' is [['red']]; expected a list"),
        (["red", True], "A", "'options' is ['red', True]; expected a list"),
        (["red", " "], "A", "'options' is ['red', ' ']; expected a list"),
        ({"A": "red", "C": "blue"}, "A", "'options' is {'A': 'red', 'C': 'blue'}; expected"),
        ({"1": "red", "2": "blue"}, "A", "'options' is {'1': 'red', '2': 'blue'}; expected"),
        ({"text": ["red"], "label": ["A"]}, "A", "'options' is {'text'"),
        (["a.png", "b.png"], "A", "'options' is ['a.png', 'b.png']: pictures as options are not"),
        (["x"] * 27, "A", "'options' is ['x'"),
    ],
)
def test_what_is_no_clear_choice_is_refused(tmp_path, options, answer, message):
    assert _refused(tmp_path, _row(options, answer)).startswith(message)


def test_options_that_contradict_are_refused(tmp_path):
    row = _row(LISTED) | {"choices": ["red", "blue"]}
    assert _refused(tmp_path, row) == "'options' and 'choices' differ; keep one of them"
    row = _row(["3", "4"], problem="Which?\nA. 1\nB. 2")
    assert _refused(tmp_path, row).startswith("the question has other options than the row's")


@pytest.mark.parametrize(
    "answers, letters",
    [
        ([0, 1, 2], ["A", "B", "C"]),
        ([1, 2, 3], ["A", "B", "C"]),
        (["1", "0", "2"], ["B", "A", "C"]),
        ([1, "blue", 2], [None, "B", None]),
        ([0, 3, 1], [None, None, None]),
    ],
)
def test_a_file_tells_where_its_indices_start(tmp_path, answers, letters):
    rows = _read(tmp_path, *[_row(LISTED, answer) for answer in answers])
    found = [None if isinstance(row, BadSample) else row.answer for row in rows]
    assert found == letters


def test_an_options_own_number_comes_before_an_index(tmp_path):
    first, second = _read(tmp_path, _row(["1", "2", "0"], "2"), _row(["1", "2", "0"], "0"))
    assert (first.answer, second.answer) == ("B", "C")
    (same,) = _read(tmp_path, _row([1, 2], 2))
    assert same.answer == "B"  # by its text, and as the last of two counted from 1


def test_answers_that_mean_the_same_option_agree(tmp_path):
    reply = "<think>Blue.</think><answer>(B)</answer>"
    same, other = (_row(LISTED, answer) | {"cot": reply} for answer in ("blue", "red"))
    (example,) = _read(tmp_path, same)
    assert (example.cot, example.answer) == ("Blue.", "B")
    assert "hold different answers, 'B' and 'A'" in _refused(tmp_path, other)


def test_no_options(tmp_path):
    for nothing in ([], None, {}, ""):
        (example,) = _read(tmp_path, _row(nothing, "7"))
        assert (example.problem, example.answer) == ("Which?", "7")
