"""A chat of one question and its reply, whatever its roles and keys are called.

    [{"role": "user", "content": "<image>How many?"}, {"role": "assistant", "content": "2"}]
    [{"from": "human", "value": "<image>How many?"}, {"from": "gpt", "value": "2"}]
    [{"role": "user", "content": [{"type": "image", "image": "a.png"},
                                  {"type": "text", "text": "How many?"}]}]

System turns may come first. The reply may be missing, if the row has an answer of its own. Further
turns are refused: training cannot use them, and to drop them would change the sample.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from rrft_jax.data import media
from rrft_jax.data.columns import THOUGHTS
from rrft_jax.data.pictures import BadSample

_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "model", "bot", "chatgpt"),
}
_SPEAKERS, _SAID = ("role", "from"), ("content", "value")
KEYS = _SPEAKERS + _SAID  # of a turn
_TEXT_PARTS = ("text", "input_text", "output_text")
_PICTURE_PARTS = ("image", "image_url", "input_image")
_FILM_PARTS = ("video", "audio", "input_audio")
# The keys of a picture part that may name its picture.
_NAMES = ("image", "image_url", "url", "path", "base64", "bytes")


@dataclasses.dataclass(frozen=True)
class Chat:
    """The parts of a chat.

    Attributes:
      question: the user's text, with `<image>` for each picture among its parts.
      pictures: the value of each picture that its parts name, in order; empty if they name none.
      system: the texts of the system turns.
      reply: the assistant's text; None without a reply.
      thoughts: the thoughts that stand beside the reply, by their keys.
    """

    question: str
    pictures: tuple[Any, ...] = ()
    system: tuple[str, ...] = ()
    reply: str | None = None
    thoughts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def read_chat(key: str, turns: Any) -> Chat:
    """Return the parts of the chat under a key of a record.

    Raises:
      BadSample: it is no chat of one question and at most one reply; the message says why.
    """
    turns = turns if isinstance(turns, list) else []
    roles = [_role(turn) for turn in turns]
    told = next((n for n, role in enumerate(roles) if role != "system"), len(turns))
    if roles[told:] not in (["user"], ["user", "assistant"]):
        raise _no_chat(key, turns[told:])
    said = [_content(number, turn) for number, turn in enumerate(turns, 1)]
    for (_, pictures), role in zip(said, roles):
        if pictures and role != "user":
            raise _malformed(f"a picture in the turn of {role!r}: pictures stand in questions")
    question, pictures = said[told]
    named = [picture for picture in pictures if picture is not None]
    if named and len(named) < len(pictures):
        raise _malformed(
            f"{len(named)} of the {len(pictures)} picture parts in {key!r} name a picture; "
            "expected all of them, or none and the pictures in a column such as 'images'"
        )
    reply, thoughts = None, {}
    if len(turns) > told + 1:
        reply = said[-1][0]
        given = {name: turns[-1].get(name) for name in THOUGHTS}
        thoughts = {name: text for name, text in given.items() if not media.is_nothing(text)}
    if any(not media.is_nothing(turns[told].get(name)) for name in THOUGHTS):
        raise _malformed("a thought in the turn of 'user'; expected it in that of 'assistant'")
    system = tuple(text for text, _ in said[:told])
    return Chat(question.strip(), tuple(named), system, reply, thoughts)


def read_completion(key: str, turns: Any) -> str:
    """Return the text of a reply that is a chat of one turn, as trl's `completion` may be.

    Args:
      key: its name for messages.
      turns: the chat.

    Raises:
      BadSample: it is another chat.
    """
    if len(turns) != 1 or _role(turns[0]) != "assistant":
        raise _malformed(f"{key} is {turns!r:.60}; expected a text, or one turn of 'assistant'")
    text, pictures = _content(1, turns[0])
    if pictures:
        raise _malformed(f"a picture in {key}: pictures stand in questions")
    return text


def as_chat(value: Any) -> Any:
    """Return the turns that a value is: a list, a single one, or the JSON text of either.

    Tables without nested columns hold chats as texts. Any other value stays as it is.
    """
    turns = value
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        with contextlib.suppress(ValueError, RecursionError):
            turns = json.loads(value)
    turns = [turns] if isinstance(turns, Mapping) else turns
    return turns if is_chat(turns) else value


def is_chat(value: Any) -> bool:
    """Return whether a value is a list of turns."""
    return isinstance(value, list) and bool(value) and all(map(_is_turn, value))


def turns_of(value: Any) -> list[Mapping[str, Any]]:
    """Return the turns of a chat; none of any other value."""
    return [turn for turn in value if isinstance(turn, Mapping)] if isinstance(value, list) else []


def _is_turn(value: Any) -> bool:
    return bool(_role(value)) and any(name in value for name in _SAID)


def _role(turn: Any) -> str:
    """Return "system", "user", "assistant", or "" for anything else."""
    speaker = str(_of(turn, _SPEAKERS) if isinstance(turn, Mapping) else "").lower()
    return next((role for role, names in _ROLES.items() if speaker in names), "")


def _of(mapping: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first value under some names that is not None."""
    return next((mapping[name] for name in names if mapping.get(name) is not None), None)


def _content(number: int, turn: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Return the text of a turn, and the picture of each picture part; None if it names none."""
    if turn.get("tool_calls"):
        raise _malformed("'tool_calls' of a turn are not read; leave such records out")
    content = _of(turn, _SAID)
    if isinstance(content, Mapping):  # a single part
        content = [content]
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise _malformed(f"the text of turn {number} is {type(content).__name__}; expected a text")
    texts, pictures = [], []
    for part in content:
        kind = _kind(part)
        if kind.startswith(_FILM_PARTS):
            raise _malformed(f"turn {number} has a part of type {kind!r}: it is not read")
        if kind in _PICTURE_PARTS:
            texts.append("<image>")
            pictures.append(part if part.get("bytes") else _of(part, _NAMES))
        elif kind in _TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise _malformed(
                f"turn {number} has a part {part!r:.60}; expected "
                '{"type": "text", "text": ...} or {"type": "image", ...}'
            )
    return "".join(texts), pictures


def _kind(part: Any) -> str:
    """Return the type of a part; a part without a type is named after its only key."""
    if not isinstance(part, Mapping):
        return ""
    held = [key for key, value in part.items() if value is not None]
    return str(part.get("type") or (held[0] if len(held) == 1 else ""))


def _no_chat(key: str, turns: list[Any]) -> BadSample:
    speakers = [_of(turn, _SPEAKERS) if isinstance(turn, Mapping) else None for turn in turns]
    found = f"turns of {', '.join(map(repr, speakers))}" if turns else "nothing of this kind"
    return _malformed(
        f"{key!r} is no chat of two; expected a list of {{'role': 'user', 'content': text}} and "
        f"then the same of 'assistant', found {found:.120}"
    )


def _malformed(message: str) -> BadSample:
    return BadSample("malformed", message)
