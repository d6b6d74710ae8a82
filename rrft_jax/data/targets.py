"""A check before SFT: the run's own rewards score what it is about to teach.

A target that the format reward refuses, or whose answer the accuracy reward counts as wrong,
teaches what GRPO then punishes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from rrft_jax import rewards
from rrft_jax.data.example import Source
from rrft_jax.data.pictures import BadRow
from rrft_jax.data.prompts import OWN, target
from rrft_jax.errors import UserError
from rrft_jax.monitoring import say

FIRST = 32  # samples of each source

# A run that has several of a group needs one that likes its targets.
_GROUPS = {
    "the layout": ("format", "caption_format"),
    "the answer": (
        *("accuracy", "math_accuracy", "choice"),
        *("transformation", "transformation_full", "transformation_penalty"),
    ),
}


def check_targets(config: ml_collections.ConfigDict, sources: Sequence[Source]) -> None:
    """Scores the first targets of SFT, and says in one line what they get.

    Thoughts that `data.thought_dropout` empties are left in. A config without `grpo` is checked
    with the usual rewards of its task, and there a missing thought is no fault. Under `ans_sft`
    there are no tags, and nothing is checked.

    Args:
      config: of the run.
      sources: what SFT reads.

    Raises:
      UserError: every target gets 0 for its layout, or for its answer. Of one source among others
        that is said.
    """
    if config.paradigm == "ans_sft":
        return
    scored: dict[str, list[float]] = {}
    refusals: dict[str, list[str]] = {what: [] for what in _GROUPS}
    number = 0
    for source in sources:
        pairs = _first_targets(config.paradigm, source)
        number += len(pairs)
        terms = rewards.read_terms(_rewards(config, source))
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
    """Examples and their targets, without those that the loader will leave out."""
    pairs = []
    for index in range(min(FIRST, len(source.examples))):
        example = source.examples[index]
        if not isinstance(example, BadRow):
            try:
                pairs.append((example, target(example, paradigm, prompts=source.prompts or OWN)))
            except BadRow:
                pass
    return pairs


def _rewards(config: ml_collections.ConfigDict, source: Source) -> Mapping[str, Any]:
    """The rewards of a source, with their weights and options."""
    if source.rewards is not None:
        return source.rewards
    if "grpo" in config:
        return config.grpo.rewards
    usual = dict(rewards.DEFAULTS[config.task])
    if getattr(source.prompts, "variant", "") == "caption":
        return usual | {"format": 0.0, "caption_format": 1.0}
    return usual | {"format": {"weight": usual["format"], "empty_thought": True}}


def _scores(term: rewards.Term, pairs: Sequence[tuple[Any, str]]) -> list[float]:
    """What each target gets. A reward of the user's own that fails is left to training."""
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
    """What is wrong if no target of a source gets anything by these rewards; empty if one does."""
    if any(score for name in names for score in values[name]):
        return ""
    example, text = pairs[0]
    return (
        f"the targets of SFT get 0 for {what} by the run's own {' and '.join(names)} (all of the "
        f"first {len(pairs)}): sample {example.id} teaches {text!r:.300}; {_reason(example, names)}"
    )


def _reason(example: Any, terms: Sequence[str]) -> str:
    """Why a target gets nothing, and what to do."""
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
