"""The fields of the settings, each with a default, a meaning, and a rule for its values.

    temperature: float = field(0.9, "Divides the logits before a token is drawn.", POSITIVE)

A section is a frozen dataclass of such fields. A subclass may give a field of its base another
default by a plain assignment; meaning and rule stay.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from rrft_jax.errors import UserError

Section = TypeVar("Section")
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    tuple: "a list",
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """The values that a field accepts.

    Attributes:
      wanted: the accepted values in words, which end an error's "expected ...".
      holds: the test of a value.
    """

    wanted: str
    holds: Callable[[Any], bool]


def one_of(*choices: str) -> Rule:
    """Return the rule of a field that takes one of a few texts."""
    return Rule(f"one of {', '.join(choices)}", lambda value: value in choices)


def at_least(least: float) -> Rule:
    """Return the rule of a finite number with a lower bound."""
    return Rule(f"{least:g} or more", lambda value: least <= value < math.inf)


def each_once(choices: Collection[str], *, ordered: bool = False) -> Rule:
    """Return the rule of a list of choices without repetition; `ordered`: in their order."""

    def holds(value: tuple[str, ...]) -> bool:
        known = [choice for choice in choices if choice in value]
        return list(value) == known if ordered else sorted(value) == sorted(known)

    order = ", in this order" if ordered else ""
    return Rule(f"of {', '.join(choices)}, each once{order}", holds)


POSITIVE = Rule("more than 0", lambda value: 0 < value < math.inf)
SHARE = Rule("a share between 0 and 1", lambda value: 0 <= value <= 1)
DECAY = Rule("0 or more, less than 1", lambda value: 0 <= value < 1)
TOP_P = Rule("more than 0, at most 1", lambda value: 0 < value <= 1)
AXIS = Rule("1 or more, or -1 for the rest", lambda value: value == -1 or value >= 1)
DTYPE = one_of("float32", "bfloat16")
ANY = Rule("", lambda value: True)


@dataclasses.dataclass(frozen=True)
class Free:
    """The mark of a field that a run may change after it has begun.

    Its value changes how a result is computed, or how much is computed, but not what it means.

    Attributes:
      consequence: a remark for the user who changes the value, "" if there is none.
      only_more: True if the new value must be larger.
    """

    consequence: str = ""
    only_more: bool = False


FREE = Free()


def field(default: Any, meaning: str, rule: Rule = ANY, free: Free | None = None) -> Any:
    """Declare a field of a section.

    Args:
      default: the default value.
      meaning: the field's description, for `docs/configs.md` and `--print_config`.
      rule: the rule for its values.
      free: says that a run may change the value after it has begun; None: it may not.
    """
    metadata = {"meaning": meaning, "rule": rule, "free": free}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Described(NamedTuple):
    """A field that is a value, with its declaration; `key` is its name, such as "grpo.beta"."""

    key: str
    own: dataclasses.Field
    meaning: str
    rule: Rule
    free: Free | None

    @property
    def default(self) -> Any:
        """The default value."""
        if self.own.default is not dataclasses.MISSING:
            return self.own.default
        return self.own.default_factory()


def described(section: type, path: str = "") -> Iterator[Described]:
    """Yield the fields of a section that are values; `path` is the start of their keys."""
    for own in dataclasses.fields(section):
        for cls in section.__mro__:
            declared = getattr(cls, "__dataclass_fields__", {}).get(own.name)
            if declared is not None and declared.metadata:
                yield Described(f"{path}{own.name}", own, **declared.metadata)
                break


def every(settings: type) -> Iterator[Described]:
    """Yield the fields of the settings that are values, and then those of each section."""
    yield from described(settings)
    for name, section in sections(settings).items():
        yield from described(section, f"{name}.")


def items(settings: Any) -> Iterator[tuple[Described, Any]]:
    """Yield the fields that the settings have, without those of missing sections, with values."""
    for found in every(type(settings)):
        section, _, name = found.key.rpartition(".")
        owner = getattr(settings, section) if section else settings
        if owner is not None:
            yield found, getattr(owner, name)


def sections(settings: type) -> dict[str, type]:
    """Return the sections of the settings by name, the optional ones too."""
    found = {}
    for name, hint in typing.get_type_hints(settings).items():
        for part in typing.get_args(hint) or (hint,):
            if dataclasses.is_dataclass(part):
                found[name] = part
    return found


def build(section: type[Section], values: Mapping[str, Any], path: str = "") -> Section:
    """Make a section from plain values, nested like its sections.

    Args:
      section: the section's dataclass.
      values: its values by field name; a missing field takes its default.
      path: the place of the section in the config, for messages: "", "grpo.".

    Raises:
      UserError: a field is unknown, or a value has the wrong type or breaks the rule.
    """
    if not isinstance(values, Mapping):
        key = f"{path.rstrip('.')}={values}"
        raise UserError(f"--config.{key}: expected a section, a mapping of its fields")
    nested, given = sections(section), {}
    known = {own.name: own for own in dataclasses.fields(section)}
    for name, value in values.items():
        if name not in known:
            where = f"config.{path}".rstrip(".")
            raise UserError(
                f"unknown config key {path}{name}: {where} has {', '.join(sorted(known))}"
            )
        if name in nested:
            given[name] = build(nested[name], value, f"{path}{name}.")
    for found in described(section, path):
        if found.own.name in values:
            given[found.own.name] = _checked(found, values[found.own.name])
    return section(**given)


def _checked(found: Described, value: Any) -> Any:
    """Return the value in the type of its field."""
    kind = typing.get_origin(found.own.type) or found.own.type
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif kind is tuple and isinstance(value, list):
        value = tuple(value)
    key = f"--config.{found.key}={value}"
    if kind in _KINDS and type(value) is not kind:
        raise UserError(f"{key}: expected {_KINDS[kind]}, found {type(value).__name__}")
    if not found.rule.holds(value):
        raise UserError(f"{key}: expected {found.rule.wanted}")
    return value


def plain(settings: Any) -> dict[str, Any]:
    """Return the settings as nested dicts of plain values, without the sections that are None."""
    values = {own.name: getattr(settings, own.name) for own in dataclasses.fields(settings)}
    return {
        name: plain(value) if dataclasses.is_dataclass(value) else value
        for name, value in values.items()
        if value is not None
    }


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return nested values as one dict whose keys are like "grpo.beta"."""
    items: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{path}{name}"
        items |= flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return items


def replaced(settings: Section, changes: Mapping[str, Any]) -> Section:
    """Return the settings with some fields changed; their names are like "grpo.beta"."""
    for key, value in changes.items():
        name, _, rest = key.partition(".")
        if rest:
            value = replaced(getattr(settings, name), {rest: value})
        settings = dataclasses.replace(settings, **{name: value})
    return settings
