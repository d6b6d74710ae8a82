"""One record of a data set -> `Example`; every part of the question is used, or refused by name.

* The question is `problem`, or the user's turn of a chat. In it `<image>` marks a picture.
* The pictures stand under a key of `media.PICTURES`. Videos and sounds are refused.
* The options stand under a key of `options.KEYS`. They are written under the question, and the
  answer becomes the letter of an option.
* The system prompt is `system` or `system_prompt`, or a chat's turn of that name.
* The thought is `cot` or another key of `THOUGHTS`; the answer is `answer` or `solution`. Either
  may be a whole reply with tags, as in a chat. Several keys for one part must agree.
* Every other key goes to `Example.extra`, where rewards find it. `level` and `type` do too, besides
  naming the part of the split.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rrft_jax.data import media, options
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.replies import Reply, read_reply
from rrft_jax.json_files import is_number
from rrft_jax.tasks import find
from rrft_jax.tasks.example import Example

THOUGHTS = (
    *("cot", "reasoning_content", "reasoning", "thought", "thoughts", "thinking", "rationale"),
    *("chain_of_thought", "think"),
)
ANSWERS = ("answer", "solution")
SYSTEM = ("system", "system_prompt")

# Keys that other programs read as a part of the question. They are refused here, not ignored.
_UNREAD = (
    *("question", "query", "prompt", "instruction", "input", "context", "hint", "passage"),
    *("history", "tools", "instructions", "system_message", "user_prompt", "background"),
)

# The two forms of a chat: the keys of speaker and text, the names of user and assistant.
_CHATS = {
    "messages": ("role", "content", "user", "assistant"),
    "conversations": ("from", "value", "human", "gpt"),
}
# The keys that become another field of an example. Keys of files are ours if they name a picture.
_OURS = frozenset(
    ("id", "problem", *THOUGHTS, *ANSWERS, *SYSTEM, *_UNREAD, *_CHATS)
    + (*options.KEYS, *media.PICTURES)
)
_EXPECTED = "expected <think>thought</think><answer>answer</answer>"
_TEXTS = ("problem", *THOUGHTS, *ANSWERS, *SYSTEM, *options.KEYS, *options.LETTERS, *_CHATS)


def read_record(
    record: Any,
    default_id: str,
    task: str,
    find_image: Callable[[str], Any],
    index_base: int | None = None,
) -> Example:
    """Return the example of a record.

    Args:
      record: a JSON value, or the `BadSample` in its place.
      default_id: the id for a record without one.
      task: a name in `tasks.TASKS`.
      find_image: maps a path in a record to a picture that `open_image` opens.
      index_base: the index of the first option, from `options.index_base`.

    Raises:
      BadSample: the record can't be used; the message says why.
    """
    if isinstance(record, BadSample):
        raise record
    if not isinstance(record, dict):
        raise _malformed(f"expected an object, found {type(record).__name__}")
    names = media.image_names(record)
    media.check_media(record, names, _TEXTS)
    if not names:
        media.check_nested(record)
    question, chat = _question(record, names)
    choices = options.read_options(record)
    question = options.with_options(question, choices)
    problem, offsets = media.place_pictures(question, len(names))
    if not problem.strip():
        raise _malformed("no question; expected a text beside the pictures")
    system = _system(record, chat)
    preface, thought, answer = _reply(record, chat, choices, index_base)
    form = find(task).answers
    if not form.readable(answer):  # no completion could be right
        raise _malformed(f"the answer is {answer!r:.60}; expected {form.expected}")
    name = default_id if record.get("id") in (None, "") else record["id"]
    if not isinstance(name, str) and not is_number(name):
        raise _malformed(f"'id' is {name!r:.60}; expected a text or a number")
    part, extra = _part(record), _extra(record)
    others = json.dumps(extra, ensure_ascii=False)
    for text in (str(name), problem, system, preface, answer, thought, part, others):
        try:
            text.encode()
        except UnicodeEncodeError:  # Half a surrogate pair, which JSON can spell.
            raise _malformed(f"a text that is not Unicode: {text!r:.60}") from None
    return Example(
        id=str(name),
        images=tuple(find_image(picture) for picture in names),
        problem=problem,
        answer=answer,
        cot=thought or None,
        task=task,
        part=part,
        image_offsets=offsets,
        system=system,
        preface=preface,
        extra=extra,
    )


def _question(record: Mapping[str, Any], names: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the question with its placeholders, and the other parts of a chat."""
    asked, chat = record.get("problem"), {}
    forms = list(_held(record, _CHATS))
    if not _is_missing(asked):
        forms = [key for key in forms if record[key]]  # an empty chat beside a question is none
    if len(holding := ["problem"] * (not _is_missing(asked)) + forms) > 1:
        raise _malformed(
            f"{' and '.join(map(repr, holding))} both hold a question; expected one of them"
        )
    if forms:
        chat = _read_chat(record, forms[0], names)
        asked = chat["question"]
    if not isinstance(asked, str) or not asked.strip():
        held = ", ".join(record) or "nothing"
        raise _malformed(
            "no question; expected a text as 'problem', or a chat as 'messages' or "
            f"'conversations', found {held:.100}"
        )
    for key in _UNREAD:
        if not media.is_nothing(record.get(key)) and record[key] not in (asked, {}):
            raise _malformed(
                f"{key!r} is not read beside the question; put its text into the question, or "
                "remove the key"
            )
    return asked, chat


def _read_chat(record: Mapping[str, Any], form: str, names: list[str]) -> dict[str, Any]:
    """Return the question, system prompt, reply and thought of a chat.

    Further turns are an error: training cannot use them, and to drop them would change the sample.
    """
    speaker, said, asks, replies = _CHATS[form]
    turns = record[form] if isinstance(record[form], list) else []
    found = "nothing of this kind"
    for number, turn in enumerate(turns, 1):
        content = turn.get(said) if isinstance(turn, dict) else turn
        for part in content if isinstance(content, list) else ():
            kind = str(part.get("type")) if isinstance(part, dict) else ""
            if kind.startswith(("video", "audio", "input_audio")):
                raise _malformed(f"turn {number} has a part of type {kind!r}: it is not read")
        if not isinstance(turn, dict) or not isinstance(content, str):
            found = f"{said!r} of turn {number} is {type(content).__name__}"
            turns = []
            break
    told = []
    while turns and turns[0].get(speaker) == "system":
        told.append(turns[0][said])
        turns = turns[1:]
    speakers = [turn.get(speaker) for turn in turns]
    if speakers != [asks, replies]:
        found = f"turns of {', '.join(map(repr, speakers))}" if speakers else found
        raise _malformed(
            f"{form!r} is no chat of two; expected a list of "
            f"{{{speaker!r}: {asks!r}, {said!r}: text}} and then the same of {replies!r}, found "
            f"{found:.120}"
        )
    for turn in turns:
        media.check_media(turn, names, (speaker, said, *THOUGHTS))
        if turn.get("tool_calls"):
            raise _malformed("'tool_calls' of a turn are not read; leave such records out")
    ask, reply = turns
    if _held(ask, THOUGHTS):
        raise _malformed(f"a thought in the turn of {asks!r}; expected it in that of {replies!r}")
    return {
        "question": ask[said].strip(),
        "system": told,
        "reply": {f"the reply of {replies!r}": reply[said]},
        "thoughts": {f"{key!r} of the reply": text for key, text in _held(reply, THOUGHTS).items()},
    }


def _system(record: Mapping[str, Any], chat: Mapping[str, Any]) -> str:
    """Return the system prompt of a record; empty without one."""
    found = {repr(key): text for key, text in _held(record, SYSTEM).items()}
    found |= {f"turn {number}": text for number, text in enumerate(chat.get("system", []), 1)}
    for where, text in found.items():
        if not isinstance(text, str):
            raise _malformed(f"{where} is {type(text).__name__}; expected a text")
        media.check_text(text, "system prompt")
    return _agreed({where: text.strip() for where, text in found.items()}, "system prompts")


def _reply(
    record: Mapping[str, Any], chat: Mapping[str, Any], choices: Mapping[str, str], base: int | None
) -> tuple[str, str, str]:
    """Return preface, thought and answer; with options, the answer is a letter."""
    thoughts = {repr(key): text for key, text in _held(record, THOUGHTS).items()}
    answers = {repr(key): text for key, text in _held(record, ANSWERS).items()}
    replies = {}
    for where, text in (thoughts | chat.get("thoughts", {})).items():
        if not isinstance(text, str):
            raise _malformed(f"{where} is {type(text).__name__}; expected a text")
        replies[where] = _parts(where, text, "thought")
    for where, text in (answers | chat.get("reply", {})).items():
        if not isinstance(text, str) and not is_number(text):
            raise _malformed(
                f"{where} is {type(text).__name__}, {text!r:.60}; expected a text or a number"
            )
        replies[where] = _parts(where, str(text), "answer")
    for where, reply in replies.items() if choices else ():
        if reply.answer:
            number = is_number(answers.get(where))
            letter = options.letter_of(reply.answer, choices, number=number, base=base)
            replies[where] = dataclasses.replace(reply, answer=letter)
    answer = _agreed({where: reply.answer for where, reply in replies.items()}, "answers")
    if not answer and chat:
        ((where, text),) = chat["reply"].items()
        raise _malformed(f"{where} is {text!r:.60}; {_EXPECTED}, or the answer alone")
    if not answer:
        found = "the answer is empty" if answers else "no answer"
        raise _malformed(f"{found}; expected a text as 'answer' or 'solution'")
    return (
        _agreed({where: reply.preface for where, reply in replies.items()}, "captions"),
        _agreed({where: reply.thought for where, reply in replies.items()}, "thoughts"),
        answer,
    )


def _parts(where: str, text: str, untagged: str) -> Reply:
    try:
        reply = read_reply(text, untagged)
    except ValueError as error:
        raise _malformed(
            f"{where} is {text!r:.60}: {error}; {_EXPECTED}, or the {untagged} alone"
        ) from None
    for part in (reply.preface, reply.thought, reply.answer):
        if part and (placeholder := media.PLACEHOLDER.search(part)):
            raise _malformed(f"{placeholder[0]} in {where}: pictures stand in questions alone")
    return reply


def _agreed(texts: Mapping[str, str | None], what: str) -> str:
    """Return the one text that several keys hold; empty if all are empty."""
    found = {where: text for where, text in texts.items() if text}
    first = next(iter(found), "")
    for where, text in found.items():
        if text != found[first] and text.split() != found[first].split():
            raise _malformed(
                f"{first} and {where} hold different {what}, {found[first]!r:.60} and "
                f"{text!r:.60}; keep one of them"
            )
    return found.get(first, "")


def _part(record: Mapping[str, Any]) -> str:
    """Return the group of a record in the results: its "level" or "type", if it has one."""
    for key in ("level", "type"):
        value = record.get(key)
        if is_number(value) or (isinstance(value, str) and value.strip()):
            return " ".join([key, *str(value).split()])
    return ""


def _extra(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that become no other field of the example."""
    ours = _OURS | set(media.file_keys(record))
    if "A" in record and "B" in record:
        ours |= set(options.LETTERS)
    return {key: value for key, value in record.items() if key not in ours}


def _malformed(message: str) -> BadSample:
    return BadSample("malformed", message)


def _held(record: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the values that a record has under some keys, in the order of the keys."""
    return {key: record[key] for key in keys if not _is_missing(record.get(key))}


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
