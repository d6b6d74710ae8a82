"""The rows that a tracker shows: numbers of a step, or some completions of a step.

A row belongs to a series, whose steps rise: "sft" and "grpo" for the metrics of a stage,
"grpo/rollouts" for its completions, "evaluation/SPLIT" for the results of a split.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol


@dataclasses.dataclass(frozen=True)
class Scalars:
    """The numbers of a step, by name."""

    series: str
    step: int
    values: Mapping[str, float]


class Completion(NamedTuple):
    """A completion, its rewards by name, and its advantage."""

    text: str
    rewards: Mapping[str, float]
    advantage: float | None


class Group(NamedTuple):
    """A prompt, the files of its pictures, and its completions."""

    prompt: str
    answer: str
    pictures: Sequence[pathlib.Path]
    completions: Sequence[Completion]


@dataclasses.dataclass(frozen=True)
class Groups:
    """Some groups of a step."""

    series: str
    step: int
    groups: Sequence[Group]


@dataclasses.dataclass(frozen=True)
class Opening:
    """The facts that a tracker's run is opened with.

    Attributes:
      folder: the folder of the run.
      id: a short text that no other run has; a resumed run has the same one.
      config: the config of the run, as plain values.
    """

    folder: pathlib.Path
    id: str
    config: Mapping[str, object]

    @property
    def name(self) -> str:
        """The name of the run for people."""
        return self.folder.resolve().name


class Tracker(Protocol):
    """A run that is open in a tracker. Every method may block, and may raise anything."""

    def newest(self) -> Mapping[str, int]:
        """Return the newest step of each series that the tracker has from earlier processes."""

    def scalars(self, row: Scalars) -> None:
        """Add the numbers of a step."""

    def groups(self, row: Groups) -> None:
        """Add completions of a step."""

    def close(self) -> None:
        """Send what is left."""


def key(series: str, name: str) -> str:
    """Return the name of a value in a tracker: "grpo/reward".

    The part before the last slash is the series again.
    """
    return f"{series}/{name.replace('/', '-')}"


def series_of(key: str) -> str:
    """Return the series of a value's name."""
    return key.rpartition("/")[0]
