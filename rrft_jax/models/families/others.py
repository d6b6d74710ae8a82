"""Models of other families: what they have that no family here has."""

from collections.abc import Mapping, Sequence
from typing import Any

# A part of a model_type -> what the models of such names have.
_PARTS = {
    "moe": "a mixture of experts",
    "qwen3_5": "gated delta nets",
    "qwen3_next": "gated delta nets",
    "omni": "sound and speech",
}


def unsupported(raw: Mapping[str, Any]) -> str:
    """Return what a config.json has that is not supported, to end a message; "" if not known."""
    kind = str(raw.get("model_type"))
    found = dict.fromkeys(what for part, what in _PARTS.items() if part in kind)
    if found:
        return f" (not supported: {', '.join(found)})"
    return "" if any(key.endswith("_config") for key in raw) else " (this one reads no pictures)"


def either(names: Sequence[str]) -> str:
    """Return names as a choice in words: "a, b or c"."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
