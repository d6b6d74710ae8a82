"""Visual counting: a question about a scene of objects, and a number as its answer.

The data set is Reason-RFT's, made from CLEVR-Math (in domain) and Super-CLEVR (shifted: its parts
DS-D and DS-M hold 750 and 250 samples). Without a data set, `drawings/counting.py` draws scenes.
"""

from rrft_jax.tasks.drawings import counting
from rrft_jax.tasks.task import PaperResults, Task
from rrft_jax.tasks.wording import LETTER, LETTERS, WORD, Wording

_PAPER = PaperResults(
    columns=(("id", ""), ("ood", "DS-D"), ("ood", "DS-M")),
    samples={"DS-D": 750, "DS-M": 250},  # shown by the granularity of the reported scores
    rows={
        "2b": {
            "zero-shot": (82.40, 42.67, 0.00),
            "ANS-SFT": (96.20, 51.07, 5.20),
            "CoT-SFT": (85.50, 49.73, 36.80),
            "Reason-RFT-Zero": (98.40, 58.00, 5.20),
            "Reason-RFT": (96.80, 60.00, 28.40),
        },
        "7b": {
            "zero-shot": (98.60, 54.53, 4.80),
            "ANS-SFT": (95.00, 42.53, 8.00),
            "CoT-SFT": (87.30, 45.33, 33.60),
            "Reason-RFT-Zero": (99.40, 63.60, 21.20),
            "Reason-RFT": (95.60, 56.13, 35.60),
        },
    },
)

TASK = Task(
    name=counting.NAME,
    sample=counting.sample,
    wording=Wording.of_kinds(
        {"": "a number", "letter": LETTER, "letters": LETTERS, "word": WORD},
        nearest={"letter": "", "letters": "", "word": ""},
    ),
    rewards={"accuracy": 1.0, "format": 1.0},
    splits=tuple(counting.SPLITS),
    paper=_PAPER,
)
