"""The origin of each value of a config, and the list of all fields that `--print_config` prints."""

import json
from collections.abc import Collection, Mapping
from typing import Any

import ml_collections

from rrft_jax import fields
from rrft_jax.settings import Config

DEFAULT, COMMAND_LINE = "default", "command line"
OBJECTIVE = "objective="  # the start of the origin of a named objective's fields
_WIDEST = 36  # columns of a value; a longer one moves the rest of its line


class Layered(ml_collections.ConfigDict):
    """A config whose values come from layers of plain fields.

    Attributes:
      layers: (name, fields) of each layer, the lowest first.
    """

    def __init__(
        self, values: Mapping[str, Any], layers: Collection[tuple[str, Mapping[str, Any]]]
    ):
        super().__init__(values)
        object.__setattr__(self, "layers", tuple(layers))


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
        (found.key, shown(value), origins[found.key], found.meaning)
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
