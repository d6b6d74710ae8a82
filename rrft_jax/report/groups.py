"""The completions that GRPO kept in `rollouts.jsonl`, as groups of one prompt."""

import itertools
from typing import Any

from rrft_jax.json_files import is_number
from rrft_jax.report.pictures import Pictures
from rrft_jax.report.run import Run, json_lines

MOST = 2_000  # completions of a page
MOST_TOKENS = 200_000  # tokens of a page that can be coloured
LONGEST = 20_000  # characters of a text
_OF_TOKENS = ("rollout_log_probs", "reference_log_probs")


def cut(text: Any, longest: int = LONGEST) -> str:
    """Return a text, cut if it is too long for a page; the end then says so."""
    text = text if isinstance(text, str) else ""
    if len(text) <= longest:
        return text
    return f"{text[:longest]} [... {len(text) - longest:,} more characters]"


def groups(run: Run, pictures: Pictures) -> dict[str, Any]:
    """Return {"groups": some of the groups, "steps": number of steps that kept any, "shown"}.

    If there are more than `MOST` completions, evenly spaced steps are taken.
    """
    rows = json_lines(run.folder / "rollouts.jsonl")
    rows = [row for row in rows if "completion" in row and is_number(row.get("step"))]
    steps = {step: list(own) for step, own in itertools.groupby(rows, lambda row: row["step"])}
    stride = -(-len(rows) // MOST) or 1
    taken = {step: own for n, (step, own) in enumerate(steps.items()) if n % stride == 0}
    tokens = sum(len(_pieces(row)) for own in taken.values() for row in own)
    coloured = -(-tokens // MOST_TOKENS) or 1  # every so many steps keep their tokens
    found = [
        _group(run, list(own), pictures, with_tokens=n % coloured == 0)
        for n, of_step in enumerate(taken.values())
        for _, own in itertools.groupby(of_step, lambda row: (row.get("id"), row.get("prompt")))
    ]
    return {"groups": found, "steps": len(steps), "shown": len(taken)}


def _group(
    run: Run, rows: list[dict[str, Any]], pictures: Pictures, with_tokens: bool
) -> dict[str, Any]:
    first = rows[0]
    return {
        "step": first["step"],
        "id": cut(first.get("id"), 200),
        "problem": cut(first.get("problem") or first.get("prompt")),
        "answer": cut(first.get("answer")),
        "pictures": pictures.add(run.folder, first.get("pictures")),
        "flat": all(row.get("advantage") == 0 for row in rows),
        "said": [_completion(row, with_tokens) for row in rows],
    }


def _completion(row: dict[str, Any], with_tokens: bool) -> dict[str, Any]:
    rewards = row.get("rewards")
    rewards = rewards if isinstance(rewards, dict) else {}
    found = {
        "text": cut(row["completion"]),
        "rewards": {cut(n, 200): value for n, value in rewards.items() if is_number(value)},
        "advantage": row["advantage"] if is_number(row.get("advantage")) else None,
        "finished": row.get("finished") is not False,
    }
    if with_tokens and (pieces := _pieces(row)):
        of_tokens = {name: row.get(name) for name in _OF_TOKENS}
        found["pieces"] = pieces
        found |= {n: of for n, of in of_tokens.items() if _fits(of, len(pieces))}
    return found


def _pieces(row: dict[str, Any]) -> list[str]:
    """Return the texts of a completion's tokens; none if the row doesn't have them."""
    pieces = row.get("pieces")
    texts = isinstance(pieces, list) and all(isinstance(piece, str) for piece in pieces)
    return pieces if texts else []


def _fits(values: Any, length: int) -> bool:
    return isinstance(values, list) and len(values) == length and all(map(is_number, values))
