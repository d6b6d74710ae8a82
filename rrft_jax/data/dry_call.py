"""A dry call before training: the run's rewards score its first samples, and the console shows it.

Each sample is scored with its own answer in the layout that the model is asked for, and with an
empty completion. A reward that fails on them would fail in training too, so it ends the run. If a
reward of the layout or of the answer refuses all of them, training could only teach a mistake: SFT
would teach a behaviour that GRPO then punishes, and GRPO would never reward a right answer.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rrft_jax import rewards
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.prompts import OWN, PARADIGMS, target
from rrft_jax.data.samples import Source
from rrft_jax.data.sources import Data
from rrft_jax.errors import UserError
from rrft_jax.markdown import aligned
from rrft_jax.monitoring import say
from rrft_jax.rewards import Term
from rrft_jax.settings import Config
from rrft_jax.tasks import Example, find
from rrft_jax.tasks.opening import completion_of, reply_of

FIRST = 32  # samples of each source
FIRST_OF_OWN = 8  # for a user's own reward, which may take its whole time limit for each
_SHORT_THOUGHT = "<think>\n...\n</think>"  # stands for the thought of a sample without one

# If a run has several rewards of a group, one of them must accept the targets.
_GROUPS = {
    "the layout": ("format", "caption_format"),
    "the answer": (
        *("accuracy", "math_accuracy", "choice"),
        *("transformation", "transformation_full", "transformation_penalty"),
    ),
}


@dataclasses.dataclass(frozen=True)
class _Row:
    """A first sample, with its own answer in the expected layout; None without an answer."""

    example: Example
    text: str | None


def check_rewards(config: Config, data: Data, prompt_end: str) -> None:
    """Score the first samples of training and of evaluation, and print a table of each.

    The samples of SFT are scored as SFT teaches them. Thoughts that `data.thought_dropout` will
    empty are kept here. A config without `grpo` is checked with the usual rewards of its task, and
    then a missing thought is no fault. Targets of `ans_sft` have no tags, so they are not checked.

    Args:
      config: the run's config.
      data: its samples.
      prompt_end: the last turn of a prompt, `Processor.prompt_end`.

    Raises:
      UserError: a reward of the user's own fails on a sample; every sample of every source gets 0
        for its layout or its answer; or nothing can score a split. If only some of several sources
        get 0, a warning is printed instead.
    """
    first = next(iter(config.stages), "")
    if first and config.paradigm != "ans_sft":
        _check_training(config, first, data.training[first], prompt_end)
    for source in data.training.get("grpo", ()):
        _warn_about_answers(config, source)
    _check_evaluation(config, data.splits, prompt_end)


def rewards_of(config: Config, source: Source) -> Mapping[str, Any]:
    """Return the rewards of a source of training, with their weights and options."""
    if source.rewards is not None:
        return source.rewards
    if config.grpo is not None:
        return config.grpo.rewards
    task = find(config.task)
    usual = dict(task.rewards)
    if "format" not in usual:
        return usual
    if getattr(source.prompts, "variant", "") in task.wording.prefaced:
        return usual | {"format": 0.0, "caption_format": 1.0}
    return usual | {"format": {"weight": usual["format"], "empty_thought": True}}


def own_reply(
    example: Example, source: Source, paradigm: str, prompt_end: str, *, taught: bool
) -> str:
    """Return the row's own answer in the layout that the model is asked for, as rewards read it.

    Args:
      example: the row.
      source: where it is from.
      paradigm: one of PARADIGMS.
      prompt_end: the last turn of a prompt, `Processor.prompt_end`.
      taught: whether it is a target of SFT, which teaches an empty thought to a row without one.
        Otherwise such a row gets a short thought, so that only its answer decides.

    Raises:
      BadSample: as `target`.
    """
    text, task = target(example, paradigm, prompts=source.prompts or OWN), find(example.task)
    text = text if taught else text.replace("<think>\n\n</think>", _SHORT_THOUGHT)
    return reply_of(task, prompt_end, completion_of(task, prompt_end, text))


def _check_training(config: Config, stage: str, sources: Sequence[Source], prompt_end: str) -> None:
    if stage == "sft" and (number := _without_answers(sources)):
        raise UserError(
            f"sft: none of the first {number} samples has an answer to learn; give them one, or "
            "leave SFT out by paradigm=reason_rft_zero in the argument of configs/grpo.py"
        )
    seconds = config.grpo.reward_seconds if config.grpo else rewards.guard.SECONDS
    what = ("the layout", "the answer") if stage == "sft" else ("the answer",)
    refusals: dict[str, list[str]] = {name: [] for name in what}
    table = _Table(stage)
    for source in sources:
        rows = _first(config.paradigm, source, prompt_end, taught=stage == "sft")
        terms = [term for term in rewards.read_terms(rewards_of(config, source)) if term.weight]
        with rewards.guard.limit(seconds):
            values = {term.name: _scores(term, rows) for term in terms}
        table.add(rows, values)
        wanted = {term.name for term in terms if term.weight > 0}
        for name in what:
            if judges := [judge for judge in _GROUPS[name] if judge in wanted and rows]:
                refusals[name].append(_refusal(stage, name, judges, values, rows))
    table.show()
    for messages in refusals.values():
        if messages and all(messages):
            raise UserError(messages[0])
        for message in filter(None, messages):
            say(f"{stage}: warning: {message}")


def _warn_about_answers(config: Config, source: Source) -> None:
    """Print a warning if some samples of GRPO have no answer that its rewards compare with."""
    wanted = {term.name for term in rewards.read_terms(rewards_of(config, source)) if term.weight}
    judges = [name for name in _GROUPS["the answer"] if name in wanted]
    samples = list(_samples(source))
    if judges and (bare := sum(not example.answer for example in samples)):
        say(
            f"grpo: warning: {bare} of the first {len(samples)} samples have no answer, and get 0 "
            f"by {' and '.join(judges)}; of task=custom, --config.custom.answers=text leaves them "
            "out"
        )


def _check_evaluation(
    config: Config, splits: Mapping[str, Sequence[Source]], prompt_end: str
) -> None:
    terms = rewards.read_terms(config.eval.rewards)
    table = _Table("eval")
    for split, sources in splits.items():
        if not terms:
            _check_answers(config, split, sources)
        for source in sources if terms else ():
            rows = _first(config.paradigm, source, prompt_end)
            with rewards.guard.limit(config.eval.reward_seconds):
                table.add(rows, {term.name: _scores(term, rows) for term in terms})
    table.show()


def _check_answers(config: Config, split: str, sources: Sequence[Source]) -> None:
    """Raise UserError if nothing can score a split: it has no answers."""
    if number := _without_answers(sources):
        names = [name for name in (config.grpo.rewards if config.grpo else ()) if "." in name]
        raise UserError(
            f"{split}: none of the first {number} samples has an answer, so there is no "
            f"accuracy; score it by a reward, --config.eval.rewards.{(names or ['NAME'])[0]}=1"
        )


def _without_answers(sources: Sequence[Source]) -> int:
    """Return the number of first samples if none of them has an answer, else 0."""
    number = 0
    for source in sources:
        for example in _samples(source):
            number += 1
            if example.answer:
                return 0
    return number


def _samples(source: Source) -> Iterator[Example]:
    """Yield the well-formed samples among the first ones of a source."""
    for index in range(min(FIRST, len(source.examples))):
        example = source.examples[index]
        if not isinstance(example, BadSample):
            yield example


def _first(paradigm: str, source: Source, prompt_end: str, *, taught: bool = False) -> list[_Row]:
    """Return the first samples, without those that the loader leaves out.

    Args:
      paradigm: the config's paradigm.
      source: the samples.
      prompt_end: the last turn of a prompt.
      taught: whether the rows are the targets of SFT, which leaves out samples without an answer.
    """
    rows, paradigm = [], paradigm if paradigm in PARADIGMS else "ans_sft"
    for example in _samples(source):
        try:
            text = own_reply(example, source, paradigm, prompt_end, taught=taught)
        except BadSample:
            if taught or example.answer:
                continue
            text = None
        rows.append(_Row(example, text))
    return rows


def _scores(term: Term, rows: Sequence[_Row]) -> list[tuple[float | None, float]]:
    """Return what the own answer of each sample gets, and what an empty completion gets.

    Raises:
      UserError: a reward of the user's own fails.
    """
    scores = []
    is_own = term.name not in rewards.names()
    for row in rows[: FIRST_OF_OWN if is_own else FIRST]:
        texts = [""] if row.text is None else [row.text, ""]
        given = {"step": 1, "lengths": [len(text.split()) for text in texts]}
        found = rewards.scores(term.name, texts, row.example, **given, **term.options)
        if is_own and found.failures:
            failure = found.failures[0]
            with_what = (
                f"its own answer, {row.text!r:.100}" if failure.text else "an empty completion"
            )
            raise UserError(
                f"reward {term.name!r} fails on sample {row.example.id} with {with_what}: "
                f"{failure.reason}; mend it: it is called as {term.name.rpartition('.')[2]}"
                "(completions, example), and must return a number for any text"
            )
        scores.append((None if row.text is None else found.values[0], found.values[-1]))
    return scores


class _Table:
    """The mean rewards of the first samples, a line for each reward."""

    def __init__(self, title: str):
        self._title, self._rows = title, 0
        self._scores: dict[str, list[tuple[float | None, float]]] = {}

    def add(
        self, rows: Sequence[_Row], values: Mapping[str, Sequence[tuple[float | None, float]]]
    ) -> None:
        """Add the samples of one source."""
        self._rows += len(rows)
        for name, scores in values.items():
            self._scores.setdefault(name, []).extend(scores)

    def show(self) -> None:
        """Print the table, if there is anything in it."""
        cells = [
            [name, str(len(scores)), *(_mean(column) for column in zip(*scores))]
            for name, scores in self._scores.items()
            if scores
        ]
        if cells:
            head = ["mean reward", "samples", "own answer", "empty completion"]
            say(f"{self._title}: what the rewards give to the first samples")
            for line in aligned([head, *cells]):
                say(line)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.2f}" if known else "–"


def _refusal(
    stage: str,
    what: str,
    names: Sequence[str],
    values: Mapping[str, Sequence[tuple[float | None, float]]],
    rows: Sequence[_Row],
) -> str:
    """Return an error if all own answers of a source get 0 by these rewards, else an empty text."""
    if any(own for name in names for own, _ in values[name]):
        return ""
    judges = " and ".join(names)
    row = next((row for row in rows if row.text is not None), None)
    if row is None:
        return (
            f"{judges}: none of the first {len(rows)} samples has an answer to compare with; "
            f"take it out by --config.grpo.rewards.{names[0]}=0"
        )
    taught, has = ("targets of SFT", "teaches") if stage == "sft" else ("right answers", "has")
    return (
        f"the {taught} get 0 for {what} by the run's own {judges} (all of the first {len(rows)}): "
        f"sample {row.example.id} {has} {row.text!r:.300}; {_reason(row.example, names)}"
    )


def _reason(example: Example, terms: Sequence[str]) -> str:
    """Return why a target gets 0, and what to do."""
    if terms == ["caption_format"] and not example.preface:
        return "its reply has no <summary> and no <caption>; add them, or set data.variant="
    if terms == ["format"] and example.preface:
        return "it begins with a summary and a caption; reward caption_format and not format"
    if set(terms) & set(_GROUPS["the layout"]):
        if not (example.cot or "").strip():
            return (
                "its thought is empty; give the samples a 'cot', leave SFT out by "
                "paradigm=reason_rft_zero, train by paradigm=ans_sft, or in a config file set "
                'config.grpo.rewards.format = {"weight": 1, "empty_thought": True}'
            )
        return "expected each tag once, in order; mend the data, or change grpo.rewards"
    return (
        f"its answer {example.answer!r:.60} is none that this reward can count as right; mend the "
        "data, or choose another reward by grpo.rewards"
    )
