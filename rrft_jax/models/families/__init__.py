"""The model families. Each is a file of data, and a line in `FAMILIES`.

A family's file says how its config.json becomes a `VLMConfig`: which sizes stand under which key,
and which parts the towers are built from. It also has the family's parameter table and the sizes of
its released models.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from rrft_jax.errors import UserError
from rrft_jax.models.config import VLMConfig
from rrft_jax.models.families import qwen2_5_vl, qwen2_vl, qwen3_vl
from rrft_jax.models.families.checks import (
    check_doubled,
    check_sections,
    check_sizes,
    check_whole,
)
from rrft_jax.models.families.others import either, unsupported


@dataclasses.dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
      title: its name in messages.
      read: the content of config.json, and its path for messages -> the configuration.
      write: a configuration -> the content of config.json, as the released files lay it out.
      released: the configurations of its released models, by their short names.
      image_defaults: whether a folder may leave out settings of the image processor, because the
        defaults of its class, which are Qwen2-VL's, are the family's.
    """

    title: str
    read: Callable[[Mapping[str, Any], str], VLMConfig]
    write: Callable[[VLMConfig], dict[str, Any]]
    released: Mapping[str, VLMConfig]
    image_defaults: bool


FAMILIES = {  # by the model_type in config.json
    "qwen2_vl": Family(
        qwen2_vl.TITLE, qwen2_vl.read, qwen2_vl.write, qwen2_vl.RELEASED, image_defaults=True
    ),
    "qwen2_5_vl": Family(
        qwen2_5_vl.TITLE,
        qwen2_5_vl.read,
        qwen2_5_vl.write,
        qwen2_5_vl.RELEASED,
        image_defaults=True,
    ),
    "qwen3_vl": Family(
        qwen3_vl.TITLE, qwen3_vl.read, qwen3_vl.write, qwen3_vl.RELEASED, image_defaults=False
    ),
}
TITLES = either([family.title for family in FAMILIES.values()])
RELEASED = {name: c for family in FAMILIES.values() for name, c in family.released.items()}


def title(name: str) -> str:
    """Return a model's name in messages: "Qwen2-VL 2B" for "2b"; all families if none has it."""
    for family in FAMILIES.values():
        if name in family.released:
            return f"{family.title} {name.rpartition('_')[2].upper()}"
    return TITLES


def read(raw: Mapping[str, Any], where: str = "config.json") -> VLMConfig:
    """Return the configuration of the model that a config.json describes.

    Args:
      raw: the content of the file.
      where: its path, for messages.

    Raises:
      UserError: the model is of no family, its weights are quantised, or a size is missing, is no
        number above 0, has two values, contradicts another or asks for an unknown variant.
    """
    kind = raw.get("model_type")
    if kind not in tuple(FAMILIES):
        raise UserError(
            f"{where}: model_type is {kind!r}, expected {either([*map(repr, FAMILIES)])}; give the "
            f"folder of a {TITLES} checkpoint{unsupported(raw)}"
        )
    try:
        check_sections(raw, where)
        check_whole(raw, where)
        check_sizes(raw, where)
        check_doubled(raw, where)
        return FAMILIES[kind].read(raw, where)
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{where}: {error.args[0]!r} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: a size is not a number ({error})") from None
