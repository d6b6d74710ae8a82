"""Places of samples and their wording: the config's own, and those of a mixture.

Samples come from one place or from several. One place is `data.path` (a folder or a file),
`data.source=tfds:DIR`, or a drawing program if both are empty. For several places, `data.mixture`
names a JSON or YAML file with a list of places to train on:

    - path: Reason-RFT-CoT-Dataset
      weight: 3
    - path: Reason-RFT-CoT-Dataset
      file: AI2D                           # another training file, by its name or a part of it
      task: TASK
      weight: 1
      rewards: {math_accuracy: 1, format: 0.5}
    - source: tfds:scenes                  # relative paths start from this file's folder
      prompts: own_words.yaml
      weight: 2
    - path: ""                             # drawn
      weight: 1

An entry may have the keys `path` or `source`, `file`, `task`, `image_root`, `columns`, `prompts`,
`system_prompt`, `variant`, `rewards` and `weight`. A missing key has the config's value, with two
exceptions. An entry with its own `path` or `source` takes none of `path`, `source` and `file` from
the config. An entry of another task takes no `variant` from the config, and has the usual rewards
of its task. Weights are relative shares of the samples in training. Either all entries have a
weight, or none has one and every sample comes equally often.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from rrft_jax import rewards as reward_functions
from rrft_jax.data import columns
from rrft_jax.data.config_files import read_settings
from rrft_jax.errors import UserError
from rrft_jax.json_files import is_number
from rrft_jax.settings import Config
from rrft_jax.tasks import find

TFDS = "tfds:"


@dataclasses.dataclass(frozen=True)
class Place:
    """A place of samples and its wording: the config's own, or an entry of a mixture.

    All fields but `where` are keys of an entry.
    """

    where: str = ""  # the start of error messages; in a mixture "FILE: entry 2: "
    path: str = ""
    source: str = ""
    file: str = ""
    task: str = ""
    image_root: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prompts: str = ""
    system_prompt: str = ""
    variant: str = ""
    rewards: Mapping[str, float] | None = None
    weight: float = 0.0

    @property
    def label(self) -> str:
        """The start of messages about this place."""
        return self.where or "data: "

    @property
    def folder(self) -> str:
        """The folder of the TFDS build."""
        return os.path.expanduser(self.source.removeprefix(TFDS))


def place_of(config: Config) -> Place:
    """Return the config's own place; its samples are drawn if it names none.

    Raises:
      UserError: the fields of `data` don't go together.
    """
    data = config.data
    place = Place(
        path=data.path,
        source=data.source,
        file=data.file,
        task=config.task,
        image_root=data.image_root,
        columns=data.columns,
        prompts=data.prompts,
        system_prompt=data.system_prompt,
        variant=data.variant,
    )
    if data.columns and not (data.path or data.mixture):
        raise UserError(
            f"data.columns={dict(data.columns)}: no effect, as only the files of data.path have "
            "columns"
        )
    with naming("data."):
        return _checked(place)


def read_mixture(file: str, base: Place) -> list[Place]:
    """Return the entries of a mixture file.

    Args:
      file: the path of the file.
      base: the config's own place, which gives the values that an entry lacks.

    Raises:
      UserError: the file can't be read, or an entry is malformed.
    """
    where = f"data.mixture={file}"
    entries = read_settings(file, "data.mixture", "list of entries")
    if not isinstance(entries, list) or not entries:
        found = f"found {type(entries).__name__}" if entries else "found none"
        raise UserError(f"{where}: expected a JSON or YAML list of entries, {found}")
    places = []
    for number, entry in enumerate(entries, 1):
        where = f"{file}: entry {number}: "
        with naming(where):
            place = _entry(entry, pathlib.Path(file).parent, base)
        places.append(dataclasses.replace(place, where=where))
    unweighted = [place for place in places if not place.weight]
    if 0 < len(unweighted) < len(places):
        raise UserError(
            f"{unweighted[0].where}no 'weight'; expected one in every entry, or in none"
        )
    return places


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Put `where` in front of the error messages of the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}{error}") from None


def _checked(place: Place) -> Place:
    """Return the place itself, if its fields go together."""
    if place.path and place.source:
        raise UserError(f"path={place.path} and source={place.source}: expected one of them")
    if place.source and not (place.source.startswith(TFDS) and place.folder):
        raise UserError(f"source={place.source}: expected {TFDS}DIR, or nothing")
    if place.file and not place.path:
        raise UserError(f"file={place.file}: no path; expected the folder that it is in")
    columns.check(place.columns)
    return place


def _entry(entry: Any, folder: pathlib.Path, base: Place) -> Place:
    keys = [field.name for field in dataclasses.fields(Place) if field.name != "where"]
    if not isinstance(entry, dict):
        raise UserError(f"expected a mapping of {', '.join(keys)}, found {entry!r:.60}")
    for key, value in entry.items():
        if key not in keys:
            raise UserError(f"unknown key {key!r}; expected one of {', '.join(keys)}")
        wanted, right = _VALUES.get(key, ("a text", lambda value: isinstance(value, str)))
        if not right(value):
            raise UserError(f"{key} is {value!r:.60}; expected {wanted}")
    reward_functions.read_terms(entry.get("rewards", {}))
    values = dict(entry)
    for key in ("path", "image_root", "prompts"):
        if values.get(key):
            values[key] = _beside(folder, values[key])
    if values.get("source", "").startswith(TFDS):
        values["source"] = TFDS + _beside(folder, values["source"].removeprefix(TFDS))
    if "path" in values or "source" in values:
        base = dataclasses.replace(base, path="", source="", file="")
    if values.get("task", base.task) != base.task:
        rewards = find(values["task"]).rewards
        base = dataclasses.replace(base, variant="", rewards=rewards)
    return _checked(dataclasses.replace(base, **values))


def _beside(folder: pathlib.Path, path: str) -> str:
    return os.fspath(folder / os.path.expanduser(path))


# The allowed values of some keys of an entry; the values of other keys are texts.
_VALUES = {
    "weight": ("a number above 0", lambda value: is_number(value) and value > 0),
    "columns": ("a mapping of parts to columns", lambda value: isinstance(value, dict)),
    "rewards": ("a mapping of rewards to weights", lambda value: isinstance(value, dict) and value),
}
