"""The steps of a stage that are profiled: `grpo@10:12`, or `10:12` of the last stage."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rrft_jax.errors import UserError

_FORM = re.compile(r"(?:(\w+)@)?([0-9]+):([0-9]+)")


class Span(NamedTuple):
    """The steps `first` to `last` of a stage, both included, counted from 1."""

    stage: str
    first: int
    last: int


def read_span(text: str, stages: Sequence[str]) -> Span | None:
    """Return the steps that `--config.profile` names; None if it names none.

    Args:
      text: the value of the field.
      stages: the stages of the config.

    Raises:
      UserError: the value has another form, or the config has no such stage.
    """
    if not text:
        return None
    found = _FORM.fullmatch(text)
    first, last = (int(found[2]), int(found[3])) if found else (0, 0)
    if not 1 <= first <= last:
        raise UserError(
            f"--config.profile={text}: expected FROM:TO or STAGE@FROM:TO, two steps from 1 on, "
            "such as grpo@10:12"
        )
    stage = found[1] or (stages[-1] if stages else "")
    if stage not in stages:
        raise UserError(
            f"--config.profile={text}: expected a stage of this config, which has "
            f"{', '.join(stages) or 'none'}"
        )
    return Span(stage, first, last)


def check_span(span: Span | None, steps: Mapping[str, int]) -> None:
    """Check that the stage is long enough; `steps` has the number of steps of each stage.

    Raises:
      UserError: the stage ends before the last step of the span.
    """
    if span and span.last > steps[span.stage]:
        raise UserError(
            f"--config.profile={span.stage}@{span.first}:{span.last}: {span.stage} has "
            f"{steps[span.stage]} steps; name some of these"
        )
