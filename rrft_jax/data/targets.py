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
      UserError: every target of a source gets 0 for its layout, or for its answer.
    """
    if config.paradigm == "ans_sft":
        return
    scored: dict[str, list[float]] = {}
    number = 0
    for source in sources:
        pairs = _first_targets(config.paradigm, source)
        number += len(pairs)
        terms = rewards.read_terms(_rewards(config, source))
        values = {term.name: _scores(term, pairs) for term in terms if term.weight}
        _refuse_zeros({term.name for term in terms if term.weight > 0}, values, pairs)
        for name, numbers in values.items():
            scored.setdefault(name, []).extend(numbers)
    means = [f"{name} {np.mean(numbers):.2f}" for name, numbers in scored.items() if numbers]
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


def _refuse_zeros(
    names: set[str], values: Mapping[str, list[float]], pairs: Sequence[tuple[Any, str]]
) -> None:
    for what, group in _GROUPS.items():
        terms = [name for name in group if name in names and values[name]]
        if terms and not any(score for name in terms for score in values[name]):
            example, text = pairs[0]
            raise UserError(
                f"the targets of SFT get 0 for {what} by the run's own {' and '.join(terms)} "
                f"({len(pairs)} of the first {len(pairs)} samples): sample {example.id} teaches "
                f"{text!r:.300}; {_reason(example, terms)}"
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
