"""Files of predictions, as an evaluation and as the public code write them."""

import json
from pathlib import Path
from typing import Any

COLUMNS = ("id", "completion", "answer")


def ours(file: Path, rows: list[tuple[str, str, str]], **fields: Any) -> Path:
    """Writes JSON lines of (id, completion, answer); `fields` are those of every row."""
    file.parent.mkdir(parents=True, exist_ok=True)
    defaults = {"task": "visual_counting", "problem": "How many?"} | fields
    lines = [json.dumps(defaults | dict(zip(COLUMNS, row))) for row in rows]
    file.write_text("\n".join(lines) + "\n")
    return file


def public(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes a JSON list."""
    file.write_text(json.dumps(rows, indent=1))
    return file


def tagged(answer: str) -> str:
    return f"<think>\nI see.\n</think>\n<answer>\n{answer}\n</answer>"
