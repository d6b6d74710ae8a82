"""The options of a row: they are written under its question, and the answer becomes a letter.

    {"problem": "Which?", "options": ["red", "blue"], "answer": "blue"}

asks "Which?", "A. red" and "B. blue" on three lines, and is answered by B.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from rrft_jax.data.kinds import bare
from rrft_jax.data.media import are_pictures, is_nothing
from rrft_jax.data.pictures import BadSample
from rrft_jax.rewards import answers

KEYS = ("options", "choices", "option", "candidates", "answer_choices")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_CLOSES = r")\].．、:：）"  # signs that may follow a letter: "A. red", "(A) red", "A) red"
_LABELLED = re.compile(rf"[(\[（]?([A-Za-z])[{_CLOSES}]+\s*(.*)", re.DOTALL)
_LETTER = re.compile(rf"[(\[（]?([A-Za-z])[{_CLOSES}]*")
_LETTERS = re.compile(r"[A-Z](?:(?:,|, | and )?[A-Z])+")


def read_options(row: Mapping[str, Any]) -> dict[str, str]:
    """Return letter -> text of a row's options, in order; empty if it has none.

    They are under one of `KEYS`, or each is under its letter, {"A": "red", "B": "blue"}.

    Raises:
      BadSample: the options have another form, or two keys hold different options.
    """
    given = {key: row.get(key) for key in KEYS}
    if "A" in row and "B" in row:
        given["A"] = {letter: row[letter] for letter in LETTERS if letter in row}
    found = {
        key: _read(key, value)
        for key, value in given.items()
        if value != {} and not is_nothing(value)
    }
    first, *others = list(found.values()) or [{}]
    if any(other != first for other in others):
        raise _malformed(f"{' and '.join(map(repr, found))} differ; keep one of them")
    return first


def with_options(question: str, options: Mapping[str, str]) -> str:
    """Return the question with a line for each option under it, unless it has them already.

    Raises:
      BadSample: the question has other options.
    """
    flat = " ".join(question.split())
    if not options or all(_holds(flat, letter, text) for letter, text in options.items()):
        return question
    if all(
        re.search(rf"^\s*[(\[（]?{letter}[{_CLOSES}]", question, re.MULTILINE) for letter in "AB"
    ):
        raise _malformed(
            "the question has other options than the row's 'options' or 'choices'; keep one of them"
        )
    return "\n".join([question.rstrip(), *(f"{x}. {text}" for x, text in options.items())])


def letter_of(answer: str, options: Mapping[str, str], *, number: bool, base: int | None) -> str:
    """Return the letter of the option that an answer means; several letters stay as they are.

    Args:
      answer: a letter, an option's text, both, or an option's index.
      options: letter -> text, from `read_options`.
      number: whether the answer is a number in the row's file and not a text.
      base: the index of the first option, 0 or 1; None if unknown.

    Raises:
      BadSample: the answer means no option, or may mean several.
    """
    said = _flat(answer)
    if said not in options.values():
        said = _flat(bare(answer))
    meant = {letter for letter, text in options.items() if text == said}
    meant = meant or {letter for letter, text in options.items() if text.lower() == said.lower()}
    if not meant and _LETTERS.fullmatch(said) and set(re.findall("[A-Z]", said)) <= set(options):
        return answer
    if (letter := _LETTER.fullmatch(said)) and letter[1].upper() in options:
        meant.add(letter[1].upper())
    if (both := _LABELLED.fullmatch(said)) and options.get(both[1].upper()) == both[2]:
        meant.add(both[1].upper())
    if re.fullmatch("[0-9]{1,3}", said) and (number or not meant):
        if base is None:  # unknown, so any option may be meant
            meant |= set(options) if int(said) <= len(options) else set()
        else:
            meant |= set(list(options)[int(said) - base :][:1]) if int(said) >= base else set()
    if not meant:  # another spelling: 60 for $60^\circ$
        read = answers.read(said)
        meant = {x for x, text in options.items() if answers.same(answers.read(text), read)}
    if len(meant) == 1:
        return meant.pop()
    listed = "; ".join(f"{letter}. {text:.20}" for letter, text in options.items())
    reason = "may mean several of" if meant else "is none of"
    raise _malformed(
        f"the answer {answer!r:.40} {reason} the options {listed:.200}; expected the letter of one"
    )


def index_base(rows: Iterable[Any]) -> int | None:
    """Return the index of a file's first options, 0 or 1; None if it is unknown.

    An index of 0 means 0, and an index as large as the number of options means 1. A file with
    both tells nothing.
    """
    starts = set()
    for row in rows:
        row = row if isinstance(row, dict) else {}
        options = next((row[key] for key in KEYS if row.get(key)), None)
        if not isinstance(options, list | dict):
            continue
        texts = options.values() if isinstance(options, dict) else options
        index = row.get("answer") if row.get("answer") is not None else row.get("solution")
        if isinstance(index, bool) or not re.fullmatch("[0-9]{1,3}", str(index)):
            continue
        if not isinstance(index, int) and index in map(str, texts):
            continue
        starts |= {0} if int(index) == 0 else {1} if int(index) == len(options) else set()
    return starts.pop() if len(starts) == 1 else None


def _read(key: str, value: Any) -> dict[str, str]:
    if isinstance(value, list):
        texts, letters = value, list(LETTERS[: len(value)])
    elif isinstance(value, dict):
        value = {name: text for name, text in value.items() if not is_nothing(text)}
        named = sorted(
            (name.strip().upper(), n, text) for n, (name, text) in enumerate(value.items())
        )
        letters, texts = [letter for letter, _, _ in named], [text for _, _, text in named]
    else:
        letters, texts = [], []
    well_formed = all(
        isinstance(text, str | int | float) and not isinstance(text, bool) and _flat(str(text))
        for text in texts
    )
    if (
        not texts
        or not well_formed
        or len(texts) > len(LETTERS)
        or letters != list(LETTERS[: len(texts)])
    ):
        raise _malformed(
            f"{key!r} is {value!r:.60}; expected a list of texts, or a mapping of A, B, ... to them"
        )
    if are_pictures(texts):
        raise _malformed(f"{key!r} is {value!r:.60}: pictures as options are not read")
    texts = [_flat(str(text)) for text in texts]
    labelled = [_LABELLED.fullmatch(text) for text in texts]
    if all(
        match and match[2] and match[1].upper() == letter
        for match, letter in zip(labelled, letters)
    ):
        texts = [match[2] for match in labelled]
    return dict(zip(letters, texts))


def _holds(question: str, letter: str, text: str) -> bool:
    """Return whether a question with single spaces has an option already."""
    end = r"(?!\w)" if re.search(r"\w$", text) else ""
    option = rf"(?<![A-Za-z]){letter}[{_CLOSES}]+\s?{re.escape(text)}{end}"
    return bool(re.search(option, question))


def _flat(text: str) -> str:
    return " ".join(text.split())


def _malformed(message: str) -> BadSample:
    return BadSample("malformed", message)
