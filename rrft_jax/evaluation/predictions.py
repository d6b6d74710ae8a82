"""Files of predictions, one completion per row: reading, scores, means over passes, parts.

An evaluation writes JSON lines. Reason-RFT's own code writes a JSON list:

    {"id": "7", "task": TASK, "answer": "3", "completion": "<think>...", "score": 1.0}

    [{"pred": "<think>...", "solution": "<answer> 3 </answer>", "level": 2}]

Both forms are read alike. Rows of one sample with different values of "pass" are its completions.

A row may have "rewards", the values of the rewards that an evaluation was asked for, and "extra",
the columns of its record that they read. A sample without an answer has no score, only rewards.
"""

import collections
import dataclasses
import json
import math
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rrft_jax import json_files
from rrft_jax.errors import UserError
from rrft_jax.evaluation.rewarding import REWARD, count_failures
from rrft_jax.evaluation.scores import mean, score, summary
from rrft_jax.json_files import is_number, unique_ids
from rrft_jax.rewards.format import extract_answer
from rrft_jax.tasks import TASKS, Example, find

# Mode of scoring -> the key of the score in a row.
MODES = {"default": "score", "reference": "score_reference"}
PREFIX = "predictions-"  # of a file's name; the split follows
_GROUPS = ("level", "type")  # keys by which the rows of a data set may be grouped


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One completion of one sample.

    Attributes:
      id: the id of the sample, shared by its completions.
      task: the name of its task.
      problem: the question; empty if the file has none.
      answer: the right answer, without tags; empty if the sample has none.
      completion: the model's text.
      parts: the parts of the split that the sample belongs to, such as "choice" or "level 2".
      scores: mode -> score, for the modes that have been scored.
      rewards: name -> value, for the rewards that the evaluation was asked for, and their weighted
        sum, `rewarding.REWARD`.
      row: the row in the file.
    """

    id: str
    task: str
    problem: str
    answer: str
    completion: str
    parts: tuple[str, ...]
    scores: Mapping[str, float]
    rewards: Mapping[str, float]
    row: Mapping[str, Any]

    def scored(self, modes: Sequence[str] = tuple(MODES)) -> "Prediction":
        """Return the prediction with the scores of these modes computed anew, also in its row."""
        scores = score_all(self.task, self.completion, self.answer, modes)
        named = {MODES[mode]: value for mode, value in scores.items()}
        row = {**self.row, "task": self.task, **named}
        return dataclasses.replace(self, scores={**self.scores, **scores}, row=row)

    @property
    def example(self) -> Example:
        """The sample as rewards see it: without its pictures, with the columns of its record."""
        extra = self.row.get("extra")
        return Example(
            id=self.id,
            images=(),
            problem=self.problem,
            answer=self.answer,
            cot=None,
            task=self.task,
            extra=extra if isinstance(extra, dict) else {},
        )

    def rewarded(self, found: Mapping[str, Any]) -> "Prediction":
        """Return the prediction with what `rewarding.reward_rows` found, also in its row.

        The rewards that are not computed anew are kept. A weighted sum of other rewards is not.
        """
        if not found:
            return self
        kept = {name: value for name, value in self.rewards.items() if name != REWARD}
        new = {name: value for name, value in found["rewards"].items() if name != REWARD}
        own = {**kept, **new}
        row = {**self.row, **found, "rewards": own}
        return dataclasses.replace(self, rewards=own, row=row)


def score_all(
    task: str, completion: str, answer: str, modes: Sequence[str] = tuple(MODES)
) -> dict[str, float]:
    """Return mode -> score of one completion; nothing for a sample without an answer."""
    if not answer:
        return {}
    return {mode: score(task, completion, answer, mode=mode) for mode in modes}


def read(file: pathlib.Path, task: str = "") -> list[Prediction]:
    """Return the rows of a file of predictions.

    Args:
      file: the file, JSON lines or a JSON list.
      task: the task of the rows that don't name a task; "" guesses it from the answers.

    Raises:
      UserError: the file can't be read, is malformed or has no rows, or a row lacks a value that
        scores need. The message says where.
    """
    rows = _rows(file)
    if not rows:
        raise UserError(f"{file}: no rows; expected predictions, JSON lines or a JSON list")
    fields = [_fields(row, where) for where, row in rows]
    answers = frozenset(answer for answer, _ in fields)
    names = _names([row for _, row in rows])
    predictions = []
    for (where, row), name, (answer, completion) in zip(rows, names, fields):
        own = _task(row, where) or task or _guess(answer, answers)
        scores = {mode: float(row[key]) for mode, key in MODES.items() if is_number(row.get(key))}
        problem = row.get("problem")
        predictions.append(
            Prediction(
                id=name,
                task=own,
                problem=problem if isinstance(problem, str) else "",
                answer=answer,
                completion=completion,
                parts=_parts(row, own, answer),
                scores=scores,
                rewards=_rewards(row),
                row=row,
            )
        )
    return predictions


def files(run: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of one evaluation: those in its folder, or the file itself.

    Raises:
      UserError: the folder has none.
    """
    found = [run] if run.is_file() else sorted(run.glob(f"{PREFIX}*.jsonl"))
    if not found:
        earlier = sorted({file.parent for file in run.glob(f"evaluations/*/{PREFIX}*.jsonl")})
        raise UserError(
            f"{run}: no predictions; expected a run's folder with {PREFIX}SPLIT.jsonl, or a file"
            + (f", or one of {', '.join(map(str, earlier))}" if earlier else "")
        )
    return found


def every_file(run: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of all evaluations of a run, its last one at the end; or the file itself.

    Raises:
      UserError: the folder has none.
    """
    results = run / "results.json"
    order = list(json_files.read_object(results.read_bytes())) if results.exists() else []

    def place(file: pathlib.Path) -> tuple[int, pathlib.Path]:
        name = file.parent.name
        return order.index(name) if name in order else len(order), file

    before = sorted(run.glob(f"evaluations/*/{PREFIX}*.jsonl"), key=place)
    last = sorted(run.glob(f"{PREFIX}*.jsonl"))
    return [*before, *last] if before else files(run)


def split(file: pathlib.Path) -> str:
    """Return the split of a file of predictions, from its name."""
    return file.stem.removeprefix(PREFIX)


def by_sample(
    predictions: Sequence[Prediction], mode: str = "default"
) -> dict[str, list[Prediction]]:
    """Return sample -> its completions in file order, scored unless the sample has no answer."""
    samples: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        if mode not in prediction.scores:
            prediction = prediction.scored([mode])
        samples.setdefault(prediction.id, []).append(prediction)
    return samples


def sample_scores(predictions: Sequence[Prediction], mode: str = "default") -> dict[str, float]:
    """Return sample -> the mean score over its passes, for the samples with an answer."""
    return {
        name: math.fsum(p.scores[mode] for p in passes) / len(passes)
        for name, passes in by_sample(predictions, mode).items()
        if mode in passes[0].scores
    }


def sample_rewards(predictions: Sequence[Prediction]) -> dict[str, dict[str, float]]:
    """Return reward -> sample -> its mean over the passes; the weighted sum comes last."""
    passes: dict[str, dict[str, list[float]]] = {}
    for prediction in predictions:
        for name, value in prediction.rewards.items():
            passes.setdefault(name, {}).setdefault(prediction.id, []).append(value)
    return {
        name: {sample: math.fsum(values) / len(values) for sample, values in samples.items()}
        for name, samples in passes.items()
    }


def by_part(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Return part of the split -> its predictions. A sample may have no part, or several."""
    parts: dict[str, list[Prediction]] = collections.defaultdict(list)
    for prediction in predictions:
        for name in prediction.parts:
            parts[name].append(prediction)
    return {name: parts[name] for name in sorted(parts)}


def entry(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return a split's entry in `results.json`.

    Accuracies are pass@1: a sample's score is the mean over its completions. The standard error is
    that of the mean over samples, which includes the noise of the draws. Accuracies are those of
    the samples with an answer, and missing if no sample has one.
    """
    samples = len({prediction.id for prediction in predictions})
    scores, found = list(sample_scores(predictions).values()), {"samples": samples}
    if scores:
        found = {**summary(scores), "samples": samples}
        reference = summary(list(sample_scores(predictions, "reference").values()))
        found["accuracy_reference"] = reference["accuracy"]
        found["standard_error_reference"] = reference["standard_error"]
    if 0 < len(scores) < samples:
        found["answered"] = len(scores)
    if rewards := sample_rewards(predictions):
        found["rewards"] = {name: mean(list(own.values())) for name, own in rewards.items()}
    if failures := count_failures(prediction.row for prediction in predictions):
        found["reward_failures"] = failures
    if len(predictions) > samples:
        found["passes"] = len(predictions) // samples
    parts = {name: list(sample_scores(own).values()) for name, own in by_part(predictions).items()}
    if parts := {name: own for name, own in parts.items() if own}:
        found["parts"] = {name: summary(own) for name, own in parts.items()}
    return found


def _rows(file: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (its place for messages, row) for every row; all rows are JSON objects."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{file}: cannot be read as UTF-8 text: {reason}") from None
    if text.lstrip().startswith("["):
        values = [(f"row {i}", value) for i, value in enumerate(_parse(text, file, 1), 1)]
    else:
        values = [
            (f"line {i}", _parse(line, file, i))
            for i, line in enumerate(text.split("\n"), 1)  # a text may hold other line ends
            if line.strip()
        ]
    rows = []
    for where, value in values:
        where = f"{file}: {where}"
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected an object, found {type(value).__name__}")
        rows.append((where, value))
    return rows


def _parse(text: str, file: pathlib.Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UserError(f"{file}: line {line}: not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{file}: line {first_line}: not JSON: {error}") from None


def _fields(row: dict[str, Any], where: str) -> tuple[str, str]:
    """Return (answer, completion) of a row."""
    answer = _first(row, "answer", "solution")
    if answer is None:
        raise UserError(f"{where}: no answer; expected a text as 'answer' or 'solution'")
    completion = _first(row, "completion", "pred")
    if completion is None:
        raise UserError(f"{where}: no completion; expected a text as 'completion' or 'pred'")
    return extract_answer(answer)[0], completion


def _first(row: dict[str, Any], *keys: str) -> str | None:
    """Return the first value of the keys that is a text or a number."""
    values = (row.get(key) for key in keys)
    return next((str(v) for v in values if isinstance(v, str) or is_number(v)), None)


def _task(row: dict[str, Any], where: str) -> str:
    task = row.get("task")
    if task is not None and not isinstance(task, str):
        raise UserError(f"{where}: task {task!r:.60}: expected one of {', '.join(TASKS)}")
    try:
        if task:
            find(task)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return task or ""


def _guess(answer: str, answers: Collection[str]) -> str:
    """Guess the task from an answer and all answers of its file; the first task if none fits."""
    fitting = (
        n for n, task in TASKS.items() if task.recognizes and task.recognizes(answer, answers)
    )
    return next(fitting, next(iter(TASKS)))


def _rewards(row: dict[str, Any]) -> dict[str, float]:
    values = row.get("rewards")
    values = values if isinstance(values, dict) else {}
    return {name: float(value) for name, value in values.items() if is_number(value)}


def _parts(row: dict[str, Any], task: str, answer: str) -> tuple[str, ...]:
    parts = list(find(task).parts(answer))
    if isinstance(row.get("part"), str):
        parts.append(row["part"])
    for key in _GROUPS:
        value = row.get(key)
        if is_number(value) or (isinstance(value, str) and value.strip()):
            parts.append(" ".join([key, *str(value).split()]))
    return tuple(parts)


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the ids of the samples; a repeated id gets the place of its row in the file.

    A further pass follows the first pass of its sample and has the same id.
    """
    ids = [str(i) if row.get("id") in (None, "") else str(row["id"]) for i, row in enumerate(rows)]
    is_further = [
        bool(row.get("pass")) and own == before for row, own, before in zip(rows, ids, [None, *ids])
    ]
    names = []
    for name in unique_ids([None if further else own for own, further in zip(ids, is_further)]):
        names.append(names[-1] if name is None else name)
    return names
