"""Calls of a user's reward, with checks of its result and a search for the failing completions.

The guard calls the reward for a whole group, because it may compare completions. If that fails,
each completion is tried alone. Completions that fail get 0, and the others are called again as a
group. If even that raises, each keeps the value that it got alone.
"""

import contextlib
import inspect
import math
import numbers
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rrft_jax.errors import UserError
from rrft_jax.rewards import guard, worker
from rrft_jax.rewards.worker import Failure

_LONGEST_SHOWN = 60


def check(name: str, function: Callable) -> None:
    """Refuse a function that can never return a value for each completion.

    Raises:
      UserError: the function is async, or a generator.
    """
    called = type(function).__call__  # for a callable object
    if any(map(inspect.iscoroutinefunction, (function, called))):
        raise UserError(
            f"reward {name!r} is async, and nothing would wait for it: write `def`, not "
            "`async def`, and inside it asyncio.run(...)"
        )
    generators = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(test(one) for test in generators for one in (function, called)):
        raise UserError(f"reward {name!r} is a generator: return a list, and don't yield")


def call(
    name: str, completions: Sequence[str], example: Any, given: Mapping[str, Any]
) -> list[float | Failure]:
    """Return the reward's value of each completion, or its failure on that completion.

    Args:
      name: the dotted path of the reward.
      completions: the completions of one group.
      example: the example that they answer.
      given: the keywords of the call; `lengths`, if given, has one value per completion.
    """
    completions, example = list(completions), _portable(example)

    def group(places: Sequence[int]) -> tuple:
        own = dict(given)
        if own.get("lengths") is not None:
            own["lengths"] = [own["lengths"][i] for i in places]
        return name, [completions[i] for i in places], example, own

    def run(groups: Sequence[Sequence[int]]) -> list[list[float | Failure] | Failure]:
        size = max(map(len, groups))
        return guard.run(f"{__name__}.values", list(map(group, groups)), completions=size)

    everyone = list(range(len(completions)))
    if not everyone:
        return []
    (found,) = run([everyone])
    if not isinstance(found, Failure):
        return found
    alone = run([[i] for i in everyone]) if len(everyone) > 1 else [found]
    alone = [one if isinstance(one, Failure) else one[0] for one in alone]
    others = [i for i in everyone if not isinstance(alone[i], Failure)]
    if not others:
        return alone if found.timed_out else [found] * len(everyone)
    rest = found  # of all, if it fails on the group and on no completion alone
    if len(others) < len(everyone):
        (rest,) = run([others])
    if isinstance(rest, Failure):
        if rest.traceback or rest.timed_out:
            return alone
        rest = [rest] * len(others)  # a result of no use, which must be said
    for i, value in zip(others, rest):
        alone[i] = value
    return alone


def values(
    name: str, completions: Sequence[str], example: Any, given: Mapping[str, Any]
) -> list[float | Failure]:
    """Call the reward for a group and check its result; this runs in a worker.

    Raises:
      worker.Wrong: the result isn't one value for each completion.
    """
    size = len(completions)  # before the call, which may change the list
    returned = worker.find(name)(completions, example, **given)
    found = _kind(returned, size)
    if found:
        raise worker.Wrong(
            f"returned {found}; expected one number for each of the {size} completions, "
            f"a list of length {size}"
        )
    if hasattr(returned, "shape"):
        returned = np.asarray(returned)
    return [_checked(value) for value in returned]


def _kind(returned: Any, size: int) -> str:
    """Return the fault of a result, in words; empty if it has one value per completion."""
    if inspect.isawaitable(returned):
        with contextlib.suppress(AttributeError):
            returned.close()
        return "a coroutine that nothing waits for"
    if returned is None:
        return "None"
    if isinstance(returned, (str, bytes)):
        return f"the text {_shown(returned)}"
    shape = getattr(returned, "shape", None)
    if shape is not None and shape != ():
        return "" if tuple(shape) == (size,) else f"an array of shape {tuple(shape)}"
    if isinstance(returned, numbers.Number) or shape == ():
        return f"the single number {_shown(returned)}"
    if isinstance(returned, types.GeneratorType):
        return "a generator"
    if not isinstance(returned, Sequence):
        return f"a {type(returned).__name__}"
    return "" if len(returned) == size else f"a {type(returned).__name__} of length {len(returned)}"


def _checked(value: Any) -> float | Failure:
    is_number = isinstance(value, numbers.Number) or getattr(value, "shape", None) == ()
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if is_number and math.isfinite(number := float(value)):
            return number
    return Failure(f"returned {_shown(value)} for a completion; expected a finite number")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _portable(example: Any) -> Any:
    """Return the example, or only its attributes if other processes can't import its class."""
    kind = type(example)
    if kind.__module__ != "__main__" and "<locals>" not in kind.__qualname__:
        return example
    public = {name: getattr(example, name) for name in dir(example) if not name.startswith("_")}
    return types.SimpleNamespace(**{k: v for k, v in public.items() if not callable(v)})
