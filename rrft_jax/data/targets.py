"""A check before SFT: the run's own rewards score the targets that SFT will teach.

If the format reward refuses a target, or the accuracy reward counts its answer as wrong, SFT would
teach a behaviour that GRPO then punishes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrft_jax import rewards
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.prompts import OWN, target
from rrft_jax.data.samples import Source
from rrft_jax.errors import UserError
from rrft_jax.monitoring import say
from rrft_jax.settings import Config
from rrft_jax.tasks import find

FIRST = 32  # samples of each source

# If a run has several rewards of a group, one of them must accept the targets.
_GROUPS = {
    "the layout": ("format", "caption_format"),
    "the answer": (
        *("accuracy", "math_accuracy", "choice"),
        *("transformation", "transformation_full", "transformation_penalty"),
    ),
}


def check_targets(config: Config, sources: Sequence[Source]) -> None:
    """Score the first targets of SFT, and print their mean rewards in one line.

    Thoughts that `data.thought_dropout` will empty are kept here. A config without `grpo` is
    checked with the usual rewards of its task, and then a missing thought is no fault. Targets of
    `ans_sft` have no tags, so nothing is checked.

    Args:
      config: the run's config.
      sources: the data sets of SFT.

    Raises:
      UserError: every target of every source gets 0 for its layout, or for its answer. If only
        some sources do, a warning is printed instead.
    """
    if config.paradigm == "ans_sft":
        return
    scored: dict[str, list[float]] = {}
    refusals: dict[str, list[str]] = {what: [] for what in _GROUPS}
    number = 0
    for source in sources:
        pairs = _first_targets(config.paradigm, source)
        number += len(pairs)
        terms = rewards.read_terms(rewards_of(config, source))
        values = {term.name: _scores(term, pairs) for term in terms if term.weight}
        wanted = {term.name for term in terms if term.weight > 0}
        for what, names in _GROUPS.items():
            judges = [name for name in names if name in wanted and values[name]]
            if judges:
                refusals[what].append(_refusal(what, judges, values, pairs))
        for name, numbers in values.items():
            scored.setdefault(name, []).extend(numbers)
    means = [f"{name} {np.mean(numbers):.2f}" for name, numbers in scored.items() if numbers]
    for messages in refusals.values():
        if messages and all(messages):
            raise UserError(messages[0])
        for message in filter(None, messages):
            say(f"sft: warning: {message}")
    if means:
        say(f"sft: the targets of the first {number} samples get {', '.join(means)}")


def _first_targets(paradigm: str, source: Source) -> list[tuple[Any, str]]:
    """Return the first examples with their targets, without those that the loader leaves out."""
    pairs = []
    for index in range(min(FIRST, len(source.examples))):
        example = source.examples[index]
        if not isinstance(example, BadSample):
            try:
                pairs.append((example, target(example, paradigm, prompts=source.prompts or OWN)))
            except BadSample:
                pass
    return pairs


def rewards_of(config: Config, source: Source) -> Mapping[str, Any]:
    """Return the rewards of a source, with their weights and options."""
    if source.rewards is not None:
        return source.rewards
    if config.grpo is not None:
        return config.grpo.rewards
    task = find(config.task)
    usual = dict(task.rewards)
    if getattr(source.prompts, "variant", "") in task.wording.prefaced:
        return usual | {"format": 0.0, "caption_format": 1.0}
    return usual | {"format": {"weight": usual["format"], "empty_thought": True}}


def _scores(term: rewards.Term, pairs: Sequence[tuple[Any, str]]) -> list[float]:
    """Return each target's score; none if a user's own reward fails, which training reports."""
    scores, failures = [], rewards.failures()
    for example, text in pairs:
        given = {"step": 1, "lengths": [len(text.split())]}
        try:
            scores += rewards.score(term.name, [text], example, **given, **term.options)
        except Exception:
            if term.name in rewards.names():
                raise
            return []
        if rewards.failures() > failures and term.name not in rewards.names():
            return []  # each further call may take its whole time limit
    return scores


def _refusal(
    what: str,
    names: Sequence[str],
    values: Mapping[str, list[float]],
    pairs: Sequence[tuple[Any, str]],
) -> str:
    """Return an error if all targets of a source get 0 by these rewards, else an empty text."""
    if any(score for name in names for score in values[name]):
        return ""
    example, text = pairs[0]
    return (
        f"the targets of SFT get 0 for {what} by the run's own {' and '.join(names)} (all of the "
        f"first {len(pairs)}): sample {example.id} teaches {text!r:.300}; {_reason(example, names)}"
    )


def _reason(example: Any, terms: Sequence[str]) -> str:
    """Return why a target gets 0, and what to do."""
    if terms == ["caption_format"] and not example.preface:
        return "its reply has no <summary> and no <caption>; add them, or set data.variant="
    if terms == ["format"] and example.preface:
        return "it begins with a summary and a caption; reward caption_format and not format"
    if set(terms) & set(_GROUPS["the layout"]):
        if not (example.cot or "").strip():
            return (
                "its thought is empty; give the samples a 'cot', train by paradigm=ans_sft, or "
                'allow it by grpo.rewards.format={"weight": 1, "empty_thought": True}'
            )
        return "expected each tag once, in order; mend the data, or change grpo.rewards"
    return (
        f"its answer {example.answer!r:.60} is none that this reward can count as right; mend the "
        "data, or choose another reward by grpo.rewards"
    )
