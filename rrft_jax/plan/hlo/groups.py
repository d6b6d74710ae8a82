"""The devices that take part in a collective together, as XLA writes them.

XLA writes groups as lists, as `[groups,devices]<=[sizes]T(order)`, or as a mesh with the axes that
a group spans. The device ids are reshaped and transposed so that each row is a group.
"""

import math
import re

import numpy as np


def groups(attributes: str, devices: int) -> np.ndarray:
    """Return the device ids [groups, devices of a group] of a collective's attributes.

    Args:
      attributes: the text behind the operands of the instruction.
      devices: the number of devices of the program, which are one group if none is written.
    """
    if found := re.search(
        r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes
    ):
        return _ordered(found[3]).reshape(int(found[1]), int(found[2]))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]([^{]*)\{([^}]*)\}", attributes):
        return _of_mesh(*found.groups())
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", attributes):
        lists = re.findall(r"\{([\d,]+)\}", found[1])
        return np.array([[int(x) for x in one.split(",")] for one in lists])
    return np.arange(devices)[None]


def _ordered(text: str) -> np.ndarray:
    """Return the ids of `[sizes]T(order)`: counted in rows, then transposed."""
    sizes, order = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    ids = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return ids.transpose(_numbers(order)) if order else ids


def _of_mesh(axes: str, order: str, spanned: str) -> np.ndarray:
    """Return the groups over some axes of a mesh; `'a':(2)4` is the part of 4 behind one of 2."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    ids = np.arange(math.prod(sizes.values()))
    if found := re.search(r"device_ids=\((\[[^)]*\](?:T\([\d,]+\))?)\)", order):
        ids = _ordered(found[1]).reshape(-1)
    elif found := re.search(r"device_ids=\(([\d,]+)\)", order):
        ids = np.array(_numbers(found[1]))
    # An axis of which only parts are spanned is cut into these parts and those between them.
    parts = {name: [] for name in sizes}
    for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", spanned):
        parts[name].append((int(before or 1), int(size or sizes[name])))
    shape, inside = [], []
    for name, size in sizes.items():
        reached = 1
        for before, part in sorted(parts[name]):
            shape += [before // reached, part]
            inside.append(len(shape) - 1)
            reached = before * part
        shape.append(size // reached)
    outside = [axis for axis in range(len(shape)) if axis not in inside]
    of_group = math.prod(shape[axis] for axis in inside)
    return ids.reshape(shape).transpose(*outside, *inside).reshape(-1, of_group)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))
