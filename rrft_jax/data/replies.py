"""A data set's reply -> its parts without their tags; no tag may be left inside of a part.

    <summary>...</summary><caption>...</caption><think>One, two.</think><answer>2</answer>

The summary and the caption come together or not at all. The thought or the answer may be missing.
`target` writes the tags anew, so a tag left in a text would appear twice. Tags may be in capitals,
and a thought may have other tags around it, such as <thinking>.
"""

import dataclasses
import re

TAG = re.compile("</?(?:think|answer)>")
_ANY_CASE = re.compile("</?(?:think|answer|summary|caption)>", re.IGNORECASE)
_THOUGHTS = ("think", "thinking", "thought", "reasoning")
CAPTION_TAG = re.compile("</?(?:summary|caption)>")


@dataclasses.dataclass(frozen=True)
class Reply:
    """The parts of a reply without their tags; a missing part is None."""

    preface: str = ""  # the summary and the caption, with their tags
    thought: str | None = None
    answer: str | None = None


def read_reply(text: str, untagged: str) -> Reply:
    """Split a reply, or one part of a reply, into its parts.

    Args:
      text: the text in the record.
      untagged: "thought" or "answer", the meaning of a text without any tags. A text after a tagged
        thought is the answer.

    Raises:
      ValueError: tags are left inside, or one of a pair is missing.
    """
    text = _ANY_CASE.sub(lambda tag: tag[0].lower(), text)
    summary, rest = _block(text.strip(), "summary")
    caption, rest = _block(rest, "caption")
    for name in _THOUGHTS:
        thought, rest = _block(rest, name)
        if thought is not None:
            break
    preface = ""
    if summary is not None and caption is not None:
        preface = f"<summary>\n{summary}\n</summary>\n<caption>\n{caption}\n</caption>"
    elif summary is not None or caption is not None:
        raise ValueError("a <summary> and a <caption> belong together")
    answer = None
    if rest.startswith("<answer>") and rest.endswith("</answer>"):
        answer = rest.removeprefix("<answer>").removesuffix("</answer>").strip()
    elif untagged == "thought" and thought is None and not preface:
        thought = rest
    elif rest:
        answer = rest
    parts = (thought or "", answer or "")
    if any(TAG.search(part) for part in parts) or TAG.search(preface):
        raise ValueError("tags inside of a part, or one of a pair of tags alone")
    if preface and any(CAPTION_TAG.search(part) for part in (*parts, summary, caption)):
        raise ValueError("tags inside of a part, or one of a pair of tags alone")
    return Reply(preface, thought, answer)


def _block(text: str, name: str) -> tuple[str | None, str]:
    """Return the inside of a block at the start of `text`, or None, and the rest of the text."""
    if text.startswith(f"<{name}>"):
        inside, end, rest = text.removeprefix(f"<{name}>").partition(f"</{name}>")
        if end:
            return inside.strip(), rest.strip()
    return None, text
