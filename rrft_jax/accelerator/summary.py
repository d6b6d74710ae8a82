"""The headline of the check: this package's step beside transformers', on the same device."""

from collections.abc import Mapping
from typing import Any

from rrft_jax.accelerator.findings import Finding, at_least, told

FASTER = 4.0  # times, that a step should be
# Part of a step -> (part of the check, name of its seconds there).
OWN = {
    "completions": ("sampling", "completions, seconds"),
    "reference": ("update", "reference, seconds"),
    "update": ("update", "update, seconds"),
}
HEADLINES = (
    ("device", "device"),
    ("sampling", "share of the memory's bandwidth"),
    ("update", "update, model FLOPs utilisation"),
)


def findings(measured: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Return the headline's findings, as far as the parts have measured what they need.

    Args:
      measured: part -> the name of a finding -> its value.
    """
    found = [
        told(name, measured[part][name])
        for part, name in HEADLINES
        if measured.get(part, {}).get(name) is not None
    ]
    own = {name: measured.get(part, {}).get(what) for name, (part, what) in OWN.items()}
    if None in own.values():
        return found
    found.append(told("a step, seconds", sum(own.values())))
    theirs = {name: measured.get("torch", {}).get(f"{name}, seconds") for name in OWN}
    if None in theirs.values():
        return found
    found.append(told("a step by transformers, seconds", sum(theirs.values())))
    for name in OWN:
        found.append(told(f"{name}, transformers to this package", theirs[name] / own[name]))
    ratio = sum(theirs.values()) / sum(own.values())
    return [*found, at_least("a step, transformers to this package", ratio, FASTER)]
