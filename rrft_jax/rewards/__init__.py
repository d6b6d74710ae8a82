"""Verifiable rewards: pure functions of text, found by name. Nothing here knows of JAX.

    score("accuracy", completions, example) -> [1.0, 0.0, ...]

A reward is a function of a group's completions and the example that they answer, anything with an
`answer`. Text from a model is hostile: no reward raises or hangs because of it (`guard.py`).

Your own reward is any function with the same signature, named by its dotted path:

    def short(completions, example, *, mode="default", step=None, limit=40):
        return [float(len(text) < limit) for text in completions]

Its name is then `mypackage.rewards.short`, and `limit` is an option. It runs behind the guard. If
it fails on a completion, that completion gets 0 (`own.py`).
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rrft_jax.errors import UserError
from rrft_jax.rewards import accuracy, format, guard, own, reference, style, transformation, worker
from rrft_jax.rewards.worker import Failure

MODES = ("default", "reference")
_GIVEN = ("mode", "step", "lengths")  # keywords from the caller; all other keywords are options


@dataclasses.dataclass(frozen=True)
class _Reward:
    """A function of a group or of one completion, and the public code's form if it differs."""

    function: Callable
    public: Callable | None = None
    of_group: bool = False

    def __call__(self, completions: Sequence[str], example: Any, mode: str, **given) -> list[float]:
        function = self.public if self.public and mode == "reference" else self.function
        given |= {"mode": mode}
        given = {name: given[name] for name in given if name in _keywords(function)}
        if self.of_group:
            return function(completions, example, **given)
        return [function(completion, example, **given) for completion in completions]


def _public_transformation(worth: Sequence[float]) -> Callable:
    return functools.partial(reference.transformation, worth=worth)


_REWARDS = {
    "format": _Reward(format.reward, reference.format_reward),
    "caption_format": _Reward(format.caption_reward, reference.caption_format_reward),
    "tags": _Reward(format.tags_reward),
    "accuracy": _Reward(accuracy.rewards, reference.accuracies, of_group=True),
    "math_accuracy": _Reward(accuracy.math_rewards, reference.math_accuracies, of_group=True),
    "choice": _Reward(accuracy.choice_reward),
    "transformation": _Reward(
        transformation.reward, _public_transformation(transformation.PARTIAL)
    ),
    "transformation_full": _Reward(
        transformation.full_reward, _public_transformation(transformation.FULL)
    ),
    "transformation_penalty": _Reward(
        transformation.penalty_reward, _public_transformation(transformation.PENALTY)
    ),
    "reasoning_steps": _Reward(style.steps_reward, reference.steps_reward),
    "length": _Reward(style.length_rewards, of_group=True),
    "repetition": _Reward(style.repetition_reward),
    "overlong": _Reward(style.overlong_rewards, of_group=True),
}


@dataclasses.dataclass(frozen=True)
class Term:
    """A reward, with its weight in the sum and its options."""

    name: str
    weight: float
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Scores(NamedTuple):
    """The value of each completion, 0 if the reward failed on it; and the failures, unordered."""

    values: list[float]
    failures: list[Failure]


def names() -> tuple[str, ...]:
    """Return the names of the project's own rewards; other rewards are named by a dotted path."""
    return tuple(_REWARDS)


def score(name: str, completions: Sequence[str], example: Any, **given) -> list[float]:
    """Return only the values of `scores`, for the same arguments."""
    return scores(name, completions, example, **given).values


def scores(
    name: str,
    completions: Sequence[str],
    example: Any,
    *,
    mode: str = "default",
    step: int | None = None,
    lengths: Sequence[int] | None = None,
    **options,
) -> Scores:
    """Return the named reward of every completion of one example's group.

    Args:
      name: one of `names()`, or the dotted path of a function.
      completions: the texts.
      example: anything with an `answer`.
      mode: "default", or "reference" for the values of Reason-RFT's public code.
      step: the training step, for rewards that begin late.
      lengths: the tokens of each completion, for rewards of lengths; without it they count words
        and signs.
      options: the reward's own keywords.

    Returns:
      One number per completion. If a call took too long or broke, it is 0 and counts as a failure.

    Raises:
      UserError: the reward, the mode or the option does not exist.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    _check(name, options)
    completions = list(completions)
    given = {"step": step, "lengths": lengths, **options}
    before = guard.failures()
    if name in _REWARDS:
        values = _REWARDS[name](completions, example, mode, **given)
    else:
        given |= {"mode": mode}
        given = {key: given[key] for key in given if key in _keywords(_find(name))}
        found = own.call(name, completions, example, given)
        values = [0.0 if isinstance(value, Failure) else value for value in found]
        for text, value in zip(completions, found):
            if isinstance(value, Failure):
                guard.count(value._replace(text=text))
    return Scores(values, guard.recent(guard.failures() - before))


def failures() -> int:
    """Return the number of completions that a reward has failed on so far, for any reason."""
    return guard.failures()


def read_terms(rewards: Mapping[str, Any], where: str = "rewards") -> list[Term]:
    """Read a config's rewards: name -> weight, or name -> a mapping of `weight` and options.

        {"accuracy": 1.0, "length": {"weight": 0.5, "start": 100}, "mypackage.rewards.iou": 2}

    Raises:
      UserError: a name, option or weight is invalid; the message begins with `where`.
    """
    terms = []
    for name, value in dict(rewards).items():
        options = dict(value) if isinstance(value, Mapping) or hasattr(value, "items") else {}
        weight = options.pop("weight", 1.0) if options else value
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise UserError(f"{where}.{name}: expected a weight, found {weight!r:.60}")
        if not math.isfinite(weight):
            raise UserError(f"{where}.{name}: expected a finite weight, found {weight}")
        try:
            _check(name, options)
        except UserError as error:
            raise UserError(f"{where}.{name}: {error}") from None
        if options.get("mode", "default") not in MODES:
            raise UserError(f"{where}.{name}: mode: expected one of {', '.join(MODES)}")
        terms.append(Term(name, float(weight), options))
    return terms


@functools.cache
def _keywords(function: Callable) -> frozenset[str]:
    """Return the names that a function takes by keyword alone."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind == p.KEYWORD_ONLY)


@functools.cache
def _find(name: str) -> Callable:
    if name in _REWARDS:
        return _REWARDS[name].function
    expected = (
        f"expected one of {', '.join(_REWARDS)}, or the dotted path of a function, such as "
        "FILE.FUNCTION for a file of the current folder"
    )
    try:
        function = worker.find(name) if "." in name else None
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"reward {name!r}: {error}; {expected}") from None
    except Exception as error:  # an import runs the module, which may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"reward {name!r}: its module can't be imported: {reason}") from error
    if not callable(function):
        raise UserError(f"reward {name!r}: {expected}")
    own.check(name, function)
    return function


def _check(name: str, options: Mapping[str, Any]) -> None:
    allowed = _keywords(_find(name)) - set(_GIVEN)
    for option in options.keys() - {"mode"}:
        if option not in allowed:
            raise UserError(
                f"reward {name!r} has no option {option!r}: "
                f"expected one of {', '.join(sorted(allowed)) or 'none'}"
            )
