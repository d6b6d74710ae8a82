"""Sums worked out in writing, one operation at a time, so that a small model can follow."""

import math
import re


def worked(working: str) -> list[str]:
    """Return all steps but the result: "180 - 50 - 60" -> "180 - 50 - 60" and "130 - 60"."""
    steps = []
    while (shorter := _reduced(working)) != working:
        steps.append(working)
        working = shorter
    return steps or [working]


def _reduced(text: str) -> str:
    """Return the expression after its next operation: brackets, squares, products, then sums."""
    number = r"(\d+(?:\.\d+)?)"
    if bracket := re.search(r"(sqrt|)\(([^()]+)\)", text):
        root, inside = bracket.groups()
        if re.fullmatch(number, inside):
            inside = f"{math.sqrt(float(inside)):g}"
        elif not re.fullmatch(number, inside := _reduced(inside)) or root:
            inside = f"{root}({inside})"
        return text.replace(bracket[0], inside)
    if "^2" in text:
        return re.sub(rf"{number}\^2", lambda m: f"{float(m[1]) ** 2:g}", text)
    for signs in ("*/", "+-"):
        if found := re.search(rf"{number} ([{signs}]) {number}", text):
            a, b = float(found[1]), float(found[3])
            result = {"*": a * b, "/": b and a / b, "+": a + b, "-": a - b}[found[2]]
            return text.replace(found[0], f"{result:g}", 1)
    return text
