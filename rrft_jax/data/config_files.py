"""The small JSON and YAML files that fields of a config name."""

import json
import pathlib
from typing import Any

import yaml

from rrft_jax.errors import UserError


def read_settings(file: str, field: str, expected: str) -> Any:
    """Return the value in a JSON or YAML file.

    Args:
      file: the path.
      field: the field of the config that names the file.
      expected: the kind of file, as an error says it: "file of texts".

    Raises:
      UserError: the file can't be read.
    """
    try:
        text = pathlib.Path(file).read_text(encoding="utf-8-sig")
        # Nearly all JSON is YAML; a tab is not.
        return json.loads(text) if file.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{field}={file}: expected a JSON or YAML {expected}: {reason}") from None
