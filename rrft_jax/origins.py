"""The origin of each value of a config, and the list of all fields that `--print_config` prints."""

import functools
import json
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from rrft_jax import fields
from rrft_jax.settings import STAGES, Config
from rrft_jax.tasks import find

DEFAULT, COMMAND_LINE = "default", "command line"
OBJECTIVE = "objective="  # the start of the origin of a named objective's fields
_OF_DEMO = (
    *(f"{stage}.{name}" for stage in STAGES for name in ("steps", "learning_rate", "batch_size")),
    *("sft.warmup_steps", "grpo.freeze", "data.system_prompt", "data.variant", "eval.samples"),
    *("sampling.temperature", "sampling.max_new_tokens", "eval.max_new_tokens"),
)
_WIDEST = 36  # columns of a value; a longer one moves the rest of its line


class _Section(ml_collections.ConfigDict):
    """A section; the names in its mappings may have dots, as the path of a reward has.

    Their values may change type: a reward has a weight, or a mapping with options.
    """

    def __init__(self, values: Mapping[str, Any]):
        super().__init__(values, allow_dotted_keys=True)

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            value = ml_collections.ConfigDict(
                dict(_plain(value)), type_safe=False, allow_dotted_keys=True
            )
        super().__setitem__(key, value)


class Layered(ml_collections.ConfigDict):
    """A config whose values come from layers of plain fields.

    Attributes:
      layers: (name, fields) of each layer, the lowest first, which is the task's.
      drawn: the values of some fields that count for drawn samples alone, each with the value that
        counts for all other samples: key -> (value, other value).
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        layers: Collection[tuple[str, Mapping[str, Any]]],
        drawn: Mapping[str, tuple[Any, Any]] | None = None,
    ):
        super().__init__(
            {key: _Section(own) if isinstance(own, dict) else own for key, own in values.items()}
        )
        object.__setattr__(self, "layers", tuple(layers))
        object.__setattr__(self, "drawn", dict(drawn or {}))

    def leave_drawn(self) -> None:
        """Give each field of `drawn` its other value, unless the config file has assigned one."""
        for key, (value, other) in self.drawn.items():
            *sections, name = key.split(".")
            owner = functools.reduce(getattr, sections, self)
            if _plain(owner[name]) != value:
                continue
            with self.unlocked():
                owner[name] = other
            lowest, *tuned = self.layers
            tuned = [(layer, {k: v for k, v in own.items() if k != key}) for layer, own in tuned]
            object.__setattr__(self, "layers", (lowest, *tuned))


def trace(
    config: Config, made: ml_collections.ConfigDict, file: str, given: Collection[str]
) -> dict[str, str]:
    """Return the origin of every field of a config, by its key.

    Args:
      config: the settings.
      made: the config that the config file has made of them.
      file: the config file; it is the origin of the values that it has assigned itself.
      given: the keys that the command line sets.
    """
    origins = {}
    for found, value in fields.items(config):
        name, current = DEFAULT, found.default
        for layer, values in getattr(made, "layers", ()):
            if values.get(found.key, current) != current:
                name, current = layer, values[found.key]
        name = name if value == current else file
        origins[found.key] = COMMAND_LINE if found.key in given else name
    return origins


def of_demo(config: Config, origins: Mapping[str, str]) -> list[str]:
    """Return a line that names the demo's settings under which other data are trained; or none.

    The settings of `tiny` suit the packaged model and its drawn samples. They are kept for other
    samples if they only say how fast and how long to learn, and how much to write.
    """
    if config.model.name != "tiny" or not has_own_data(config):
        return []
    idle = tuple(f"{stage}." for stage in STAGES if stage not in config.stages)
    settings = [
        f"{found.key}={shown(value)}"
        for found, value in fields.items(config)
        if found.key in _OF_DEMO and value != found.default and not found.key.startswith(idle)
        if origins[found.key].startswith(("model=", "configs/tiny_"))
    ]
    said = "settings of the packaged model's demo, which may not suit other data"
    return [f"{said}: {' '.join(settings)}"] if settings else []


def has_own_data(config: Config) -> bool:
    """Return whether the samples are the user's, and not drawn."""
    data = config.data
    return bool(data.path or data.source or data.mixture) or find(config.task).sample is None


def expansion(config: Config, origins: Mapping[str, str]) -> list[str]:
    """Return a line that says which fields a named objective has set; none without an objective."""
    fields_of: dict[str, list[str]] = {}
    for found, value in fields.items(config):
        if (origin := origins[found.key]).startswith(OBJECTIVE):
            fields_of.setdefault(origin, []).append(f"--config.{found.key}={shown(value)}")
    return [f"{origin}: {' '.join(settings)}" for origin, settings in fields_of.items()]


def listing(config: Config, origins: Mapping[str, str]) -> list[str]:
    """Return aligned lines of every field: its key, its value, its origin, its meaning."""
    rows = [("field", "value", "from", "meaning")]
    rows += [
        (found.key, shown(value).replace("\n", r"\n"), origins[found.key], found.meaning)
        for found, value in fields.items(config)
    ]
    widths = [min(max(map(len, column)), _WIDEST) for column in zip(*rows)][:-1]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]])
        for row in rows
    ]


def shown(value: Any) -> str:
    """Return a value as the command line takes it."""
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, tuple):
        return ",".join(value) or "()"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or '""'


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, ml_collections.ConfigDict) else value
