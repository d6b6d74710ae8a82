"""The tags of a completion: is the thought first, then the answer, and nothing else; and which?"""

import re
from typing import Any

_LAYOUT = re.compile(r"<think>.*</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def reward(completion: str, example: Any = None) -> float:
    """1 if the whole text is one `<think>` block and one `<answer>` block, in that order.

    White space may follow the blocks. The thought may be empty, the answer may not.
    """
    del example  # the layout is the same for all
    if any(completion.count(tag) != 1 for tag in _TAGS):
        return 0.0
    match = _LAYOUT.fullmatch(completion)
    return 1.0 if match and match[1].strip() else 0.0


def extract_answer(completion: str) -> tuple[str, bool]:
    """The text of the first `<answer>` block, or all of it; and whether there was a block."""
    start = completion.find("<answer>")
    end = completion.find("</answer>", start)
    if start < 0 or end < 0:
        return completion.strip(), False
    return completion[start + len("<answer>") : end].strip(), True
