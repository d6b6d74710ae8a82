"""The tags of a completion: the thought first, then the answer, and nothing else."""

import re
from collections.abc import Sequence
from typing import Any

_BLOCKS = ("think", "answer")
_CAPTION_BLOCKS = ("summary", "caption", *_BLOCKS)
# All tags of a completion.
TAGS = tuple(f"<{end}{block}>" for block in _CAPTION_BLOCKS for end in ("", "/"))


def reward(completion: str, example: Any = None, *, empty_thought: bool = False) -> float:
    """Give 1 if the whole text is one `<think>` block and one `<answer>` block, in that order.

    White space may stand between the blocks and after them, and neither block may be empty. If a
    model may choose not to think, `empty_thought` also accepts an empty thought.
    """
    del example  # the layout is the same for all
    return _laid_out(completion, _BLOCKS, may_be_empty=("think",) if empty_thought else ())


def caption_reward(completion: str, example: Any = None) -> float:
    """Reward as `reward` does, with a `<summary>` and a `<caption>` block before the thought."""
    del example
    return _laid_out(completion, _CAPTION_BLOCKS)


def tags_reward(completion: str, example: Any = None) -> float:
    """Give a quarter for each of the four tags that stands once, and after the tags before it."""
    del example
    place, found = -1, 0
    for tag in _tags(_BLOCKS):
        here = completion.find(tag)
        if here > place and completion.find(tag, here + 1) < 0:
            place, found = here, found + 1
    return found / 4


def extract_answer(completion: str) -> tuple[str, bool]:
    """Return the text of the first `<answer>` block, and whether there is one.

    Without a block, return the text behind the thought that it begins with, or else all text.
    """
    if (answer := answer_block(completion)) is not None:
        return answer, True
    text = completion.strip()
    thought, end, rest = text.partition("</think>")
    return (rest.strip() if end and thought.startswith("<think>") else text), False


def answer_block(completion: str) -> str | None:
    """Return the text of the first `<answer>` block; None without one."""
    return _first_block(completion, "answer")


def extract_thought(completion: str) -> str:
    """Return the text of the first `<think>` block; empty without one."""
    return _first_block(completion, "think") or ""


def _first_block(completion: str, block: str) -> str | None:
    start = completion.find(f"<{block}>")
    end = completion.find(f"</{block}>", start)
    if start < 0 or end < 0:
        return None
    return completion[start + len(f"<{block}>") : end].strip()


def _laid_out(completion: str, blocks: Sequence[str], may_be_empty: Sequence[str] = ()) -> float:
    # Each tag must stand once, so each `.*` has one place to end, and the match takes linear time.
    if any(completion.count(tag) != 1 for tag in _tags(blocks)):
        return 0.0
    layout = r"\s*".join(f"<{block}>(.*)</{block}>" for block in blocks)
    match = re.fullmatch(rf"{layout}\s*", completion, re.DOTALL)
    if not match:
        return 0.0
    filled = (text.strip() or b in may_be_empty for b, text in zip(blocks, match.groups()))
    return float(all(filled))


def _tags(blocks: Sequence[str]) -> list[str]:
    return [tag for block in blocks for tag in (f"<{block}>", f"</{block}>")]
