"""Structure perception: a question about a figure, answered by a number or the letter of an option.

The data set is Reason-RFT's, made from GeoMath (in domain) and Geometry3K (shifted). Without a data
set, `drawings/structure.py` draws figures of plane geometry.
"""

from collections.abc import Collection

from rrft_jax.rewards.transformation import are_calls
from rrft_jax.tasks.drawings import structure
from rrft_jax.tasks.task import PaperResults, Task
from rrft_jax.tasks.wording import LETTER, LETTERS, WORD, Wording

_PAPER = PaperResults(
    columns=(("id", ""), ("ood", "")),
    rows={
        "2b": {
            "zero-shot": (25.86, 20.63),
            "ANS-SFT": (51.34, 22.50),
            "CoT-SFT": (43.05, 25.25),
            "Reason-RFT-Zero": (47.68, 32.50),
            "Reason-RFT": (49.03, 33.13),
        },
        "7b": {
            "zero-shot": (43.30, 43.88),
            "ANS-SFT": (51.34, 25.38),
            "CoT-SFT": (50.49, 33.00),
            "Reason-RFT-Zero": (55.00, 54.75),
            "Reason-RFT": (59.27, 49.25),
        },
    },
)


_LETTERS = tuple(structure.OPTIONS)


def _parts(answer: str) -> tuple[str, ...]:
    return ("choice",) if answer in _LETTERS else ("non_choice",)


def _recognizes(answer: str, answers: Collection[str]) -> bool:
    """Return whether a file has letters of options; counting is scored alike and has none."""
    return any(letter in answers for letter in _LETTERS) and not are_calls(answer)


TASK = Task(
    name=structure.NAME,
    sample=structure.sample,
    wording=Wording.of_kinds(
        {
            "letter": LETTER,
            "letters": LETTERS,
            "value": "an integer or a decimal number",
            "word": WORD,
        },
        nearest={"letters": "letter", "word": "value"},
    ),
    rewards={"math_accuracy": 1.0, "format": 1.0},
    splits=tuple(structure.SPLITS),
    parts=_parts,
    recognizes=_recognizes,
    # The published data set has too few samples to divide between SFT and GRPO.
    reuse_activation=True,
    epochs=5,
    paper=_PAPER,
)
