"""The kind of an answer, which an instruction has to fit: a letter, a word, a value."""

import re
import unicodedata

# Around an answer, and in front of one: "\boxed{B}", "**B**", "Option B".
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{([^{}]*)\}")
_NAMED = re.compile(
    r"^(?:(?:the\s+)?(?:correct\s+)?(?:option|choice|answer)\b\s*(?:is\b)?|选项|选|答案[是为]?)"
    r"\s*[:：]?\s*",
    re.IGNORECASE,
)

_OPEN, _CLOSE = r"[(\[（]?", r"[)\]）．.、:：]"
_LETTER = re.compile(rf"{_OPEN}[A-Za-z]{_CLOSE}{{0,2}}")
_LETTER_AND_TEXT = re.compile(  # "B. 12", "(B) red"; not "U.S."
    rf"{_OPEN}[A-Za-z](?:[)\]）．、:：]|\.(?=\s|(?![A-Za-z]\b)))\s*\S.*", re.DOTALL
)
_BETWEEN = re.compile(r"\s*(?:[,，、;/&]|\band\b)\s*|\s+|(?<=[)\]）])(?=[(\[（])")

_VALUE = re.compile(
    r"[\W_]*(?:"
    r"[\d½⅓⅔¼¾π∞].*"  # a number before any letter, with whatever unit
    r"|\\[A-Za-z]+.*|√.*"  # a formula
    r"|[^\W\d_]{1,4}\s*=.*|[^\W\d_]\s*[-+*/^]\s*\d.*"  # "x = 5", "ABC = 60°", "x + 2"
    r")",
    re.DOTALL,
)


def kind_of(answer: str) -> str:
    """Return the kind of an answer: "letter", "letters" (several options), "value" or "word"."""
    text = bare(answer)
    if _LETTER.fullmatch(text):
        return "letter"
    parts = [part for part in _BETWEEN.split(text) if part]
    if len(parts) > 1 and all(map(_LETTER.fullmatch, parts)):
        return "letters"
    if re.fullmatch("[A-H]{2,8}", text) and list(text) == sorted(set(text)):
        return "letters"
    if _LETTER_AND_TEXT.fullmatch(text):
        return "letter"
    return "value" if _VALUE.fullmatch(text) else "word"


def kind_asked(question: str, answer: str = "") -> str:
    """Return the kind of an answer.

    An unknown answer ("") is a letter if the question has options, and else a value.
    """
    if answer:
        return kind_of(answer)
    return "letter" if _has_options(question, "AB") else "value"


def is_of_four(question: str, answer: str = "") -> bool:
    """Return whether a letter is A, B, C or D or unknown, and the question has no option E."""
    if answer and re.findall("[A-Za-z]", bare(answer))[0] not in "ABCD":
        return False
    return not _has_options(question, "ABCDE")


def _has_options(question: str, letters: str) -> bool:
    """Return whether options of these letters stand in a question, in order and signed alike."""
    signs = (("(", ")"), ("", "."), ("", ")"), ("", ":"))
    return any(_stand(question, letters, *pair) for pair in signs)


def _stand(question: str, letters: str, before: str, after: str) -> bool:
    place = 0
    for letter in letters:
        option = re.compile(rf"(?<![A-Za-z]){re.escape(f'{before}{letter}{after}')}\s*\S")
        found = option.search(question, place)
        if not found:
            return False
        place = found.end()
    return True


def bare(answer: str) -> str:
    """Return the answer in half width, without its name and marks of LaTeX and Markdown."""
    answer = "".join(unicodedata.normalize("NFKC", c) if "！" <= c <= "～" else c for c in answer)
    text = _WRAPPED.sub(r"\1", answer).strip().strip("*$").strip()
    return _NAMED.sub("", text) or text
