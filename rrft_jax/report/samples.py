"""What the model said to held-out samples: one evaluation, and several side by side."""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from rrft_jax.evaluation import compare, predictions
from rrft_jax.evaluation.predictions import Prediction
from rrft_jax.report.groups import cut
from rrft_jax.rewards.format import extract_answer

SHOWN = 200  # samples of an evaluation whose texts a page holds
_CHARACTERS = 400_000  # of the texts of one evaluation; past them no further sample is shown
_LABELS = 12  # rows and columns of a table of answers
_LABEL = 40  # characters of an answer there
OTHER, NONE = "other", "no answer"

Sample = tuple[str, str]  # its id, and its right answer: runs of other data have other samples


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One file of predictions, without the texts that a page doesn't show.

    Attributes:
      worth: sample -> 1 if it is solved, else 0; its reward if it has no answer.
      scores: sample -> mean score over its passes, for samples with an answer.
      samples: sample -> its question and its pictures, for the samples that are shown.
      said: sample -> its completions, for the samples that are shown.
      answers: the table of right answers against given answers; see `_answers`.
    """

    worth: dict[Sample, float]
    scores: dict[str, float]
    samples: dict[Sample, dict[str, Any]]
    said: dict[Sample, list[dict[str, Any]]]
    answers: dict[str, Any]


def read(file: pathlib.Path) -> Evaluation:
    """Return an evaluation; a file that has not changed is not read twice.

    Raises:
      UserError: as `predictions.read`.
    """
    about = file.stat()
    return _read(file, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=256)
def _read(file: pathlib.Path, changed: int, size: int) -> Evaluation:
    del changed, size  # they tell two states of one file apart
    every = predictions.read(file)
    by_sample = {(name, own[0].answer): own for name, own in predictions.by_sample(every).items()}
    samples, said, characters = {}, {}, 0
    for sample, passes in by_sample.items():
        if len(said) == SHOWN or characters > _CHARACTERS:
            break
        said[sample] = [_completion(one) for one in passes]
        characters += sum(len(one["text"]) for one in said[sample])
        pictures = passes[0].row.get("pictures")
        samples[sample] = {"problem": cut(passes[0].problem), "pictures": pictures}
    return Evaluation(
        worth={sample: compare.worth(passes) for sample, passes in by_sample.items()},
        scores=predictions.sample_scores(every),
        samples=samples,
        said=said,
        answers=_answers([one for passes in by_sample.values() for one in passes]),
    )


def _completion(prediction: Prediction) -> dict[str, Any]:
    found = {"text": cut(prediction.completion)}
    if "default" in prediction.scores:
        found["score"] = prediction.scores["default"]
    if prediction.rewards:
        found["rewards"] = {cut(n, 200): value for n, value in prediction.rewards.items()}
    if prediction.row.get("finished") is False:
        found["truncated"] = True
    return found


def _answers(every: Sequence[Prediction]) -> dict[str, Any]:
    """Return how often each answer was given where another one is right.

    Returns:
      {"right": labels of rows, "given": labels of columns, "counts": [rows][columns],
      "mistakes": [right, given, number] of the most frequent ones}. Rare answers are one row or
      column, `OTHER`.
    """
    found = [extract_answer(prediction.completion) for prediction in every]
    tagged = any(has_tags for _, has_tags in found)
    pairs, mistakes = collections.Counter(), collections.Counter()
    for prediction, (given, has_tags) in zip(every, found):
        if not prediction.answer:
            continue
        pair = _label(prediction.answer), _label(given) if has_tags or not tagged else NONE
        pairs[pair] += 1
        mistakes[pair] += prediction.scores["default"] < 1
    rights, givens = collections.Counter(), collections.Counter()
    for (right, given), number in pairs.items():
        rights[right] += number
        givens[given] += number
    rows, columns = _labels(rights), _labels(givens)
    counts = [[0] * len(columns) for _ in rows]
    for (right, given), number in pairs.items():
        row = rows.index(right if right in rows else OTHER)
        counts[row][columns.index(given if given in columns else OTHER)] += number
    most = [[*pair, number] for pair, number in mistakes.most_common(10) if number]
    return {"right": rows, "given": columns, "counts": counts, "mistakes": most}


def _label(answer: str) -> str:
    return cut(" ".join(answer.split()), _LABEL) or NONE


def _labels(counts: collections.Counter[str]) -> list[str]:
    """Return the most frequent answers, numbers by their size, and `OTHER` if some are left out."""
    most = [label for label, _ in counts.most_common(_LABELS)]
    most = sorted(most, key=_order)
    return most + [OTHER] * (len(counts) > len(most))


def _order(label: str) -> tuple[int, float, str]:
    try:
        return 0, float(label), label
    except ValueError:
        return 1 + (label == NONE), 0.0, label
