"""One record of a data set -> `Example`; every part of the question is used, or refused by name.

* The question stands under a key of `columns.QUESTIONS`: a text, or a chat (`chats.py`). In it
  `<image>` marks a picture. `input` goes under the `instruction` of Alpaca.
* The pictures stand under a key of `media.PICTURES`, or in the parts of a chat. Videos and sounds
  are refused.
* The options stand under a key of `options.KEYS`. They are written under the question, and the
  answer becomes the letter of an option.
* The system prompt is `system` or `system_prompt`, or a chat's turn of that name.
* The thought stands under a key of `columns.THOUGHTS`; the answer is the reply of a chat, or stands
  under a key of `columns.ANSWERS`. Either may be a whole reply with tags.
* Several keys for one part must agree. `data.columns` chooses one of them.
* Every other key goes to `Example.extra`, where rewards find it. `level` and `type` do too, besides
  naming the part of the split.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rrft_jax.data import chats, columns, media, options
from rrft_jax.data.chats import Chat
from rrft_jax.data.columns import ANSWERS, CHATS, QUESTIONS, SYSTEM, THOUGHTS, UNREAD
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.replies import Reply, read_reply
from rrft_jax.json_files import is_number
from rrft_jax.tasks import find
from rrft_jax.tasks.answers import Answers
from rrft_jax.tasks.example import Example

# The keys that become another field of an example. Keys of files are ours if they name a picture.
_OURS = frozenset(
    ("id", *QUESTIONS, *UNREAD, *THOUGHTS, *ANSWERS, *SYSTEM, *options.KEYS, *media.PICTURES)
)
_EXPECTED = "expected <think>thought</think><answer>answer</answer>"
_TEXTS = (
    *(QUESTIONS + UNREAD + THOUGHTS + ANSWERS + SYSTEM),
    *(options.KEYS + tuple(options.LETTERS)),
)


def read_record(
    record: Any,
    default_id: str,
    task: str,
    find_image: Callable[[str], Any],
    index_base: int | None = None,
    mapped: Mapping[str, str] | None = None,
) -> Example:
    """Return the example of a record.

    Args:
      record: a JSON value, or the `BadSample` in its place.
      default_id: the id for a record without one.
      task: a name in `tasks.TASKS`.
      find_image: maps a path in a record to a picture that `open_image` opens.
      index_base: the index of the first option, from `options.index_base`.
      mapped: part of a sample -> column, `data.columns`.

    Raises:
      BadSample: the record can't be used; the message says why.
    """
    if isinstance(record, BadSample):
        raise record
    if not isinstance(record, dict):
        raise _malformed(f"expected an object, found {type(record).__name__}")
    mapped = mapped or {}
    record, others = columns.apply(record, mapped)
    record = {
        key: chats.as_chat(value) if key in QUESTIONS + ANSWERS else value
        for key, value in record.items()
    }
    pictures = media.read_pictures(record)
    media.check_media(record, pictures, _TEXTS)
    question, asked = _question(record)
    pictures = _with_those_of_chats(record, pictures, asked)
    choices = options.read_options(record)
    question = options.with_options(question, choices)
    problem, offsets = media.place_pictures(question, len(pictures))
    if not problem.strip():
        raise _malformed("no question; expected a text beside the pictures")
    system = _system(record, {} if "system" in mapped else asked)
    form = find(task).answers
    replies = _replies(record, asked, form, mapped)
    preface, thought, answer = _reply(record, replies, choices, index_base, form)
    if not form.readable(answer):  # no completion could be right
        raise _malformed(f"the answer is {answer!r:.60}; expected {form.expected}")
    name = default_id if record.get("id") in (None, "") else record["id"]
    if not isinstance(name, str) and not is_number(name):
        raise _malformed(f"'id' is {name!r:.60}; expected a text or a number")
    part, extra = _part(record), _extra(record, others)
    for text in (str(name), problem, system, preface, answer, thought, part, _json(extra)):
        try:
            text.encode()
        except UnicodeEncodeError:  # Half a surrogate pair, which JSON can spell.
            raise _malformed(f"a text that is not Unicode: {text!r:.60}") from None
    return Example(
        id=str(name),
        images=tuple(p.content or find_image(p.name) for p in pictures),
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


def _question(record: Mapping[str, Any]) -> tuple[str, dict[str, Chat]]:
    """Return the question with its placeholders, and what is asked under each key."""
    held = {key: value for key, value in _held(record, QUESTIONS).items() if value not in ({}, [])}
    if not held and isinstance(record.get("input"), str):
        held = _held(record, ("input",))  # input and output, without an instruction
    asked = {key: _asked(key, value) for key, value in held.items()}
    under = record.get("input") if isinstance(record.get("instruction"), str) else None
    if isinstance(under, str) and under.strip() and "instruction" in asked:
        question = f"{asked['instruction'].question.rstrip()}\n{under}"
        asked["instruction"] = Chat(question)
    else:
        under = None
    if not any(chat.question.strip() for chat in asked.values()):
        found = ", ".join(record) or "nothing"
        raise _malformed(
            "no question; expected a text as 'problem' or 'question', or a chat as 'messages', "
            f"found {found:.100}; --config.data.columns.problem=COLUMN names another column"
        )
    first, *others = asked
    for key in others:
        if _words(asked[key].question) != _words(asked[first].question):
            raise _malformed(
                f"{first!r} and {key!r} hold different questions; keep one of them, or choose it "
                f"by --config.data.columns.problem={first}"
            )
    texts = [chat.question for chat in asked.values()]
    question = max(texts, key=lambda text: len(media.PLACEHOLDER.findall(text)))
    for key in UNREAD:
        if media.is_nothing(record.get(key)) or record[key] in (*texts, under, {}):
            continue
        raise _malformed(
            f"{key!r} is not read beside the question; put its text into it, remove the key, or "
            f"say that {first!r} is the whole question by --config.data.columns.problem={first}"
        )
    return question, asked


def _asked(key: str, value: Any) -> Chat:
    if isinstance(value, str) and key not in CHATS:
        return Chat(value)
    if isinstance(value, list) or key in CHATS:
        return chats.read_chat(key, value)
    raise _malformed(f"{key!r} is {type(value).__name__}, {value!r:.60}; expected a question")


def _words(question: str) -> list[str]:
    """Return the words of a question without its placeholders."""
    return media.PLACEHOLDER.sub(" ", question).split()


def _with_those_of_chats(
    record: Mapping[str, Any], pictures: list[media.Picture], asked: Mapping[str, Chat]
) -> list[media.Picture]:
    """Return the pictures of a record, or those that the parts of its chats name."""
    named = {key: media.pictures_of(list(c.pictures), key) for key, c in asked.items()}
    for key, own in named.items():
        if pictures and own and not media.same(own, pictures):
            raise _malformed(
                f"{key!r} and another key name different pictures; keep one of them, or choose "
                "by --config.data.columns.image=COLUMN"
            )
        pictures = pictures or own
    for key in asked:
        for turn in chats.turns_of(record.get(key)):
            media.check_media(turn, pictures, (*chats.KEYS, *THOUGHTS))
    if not pictures:
        media.check_nested(record)
    return pictures


def _system(record: Mapping[str, Any], asked: Mapping[str, Chat]) -> str:
    """Return the system prompt of a record; empty without one."""
    found = {repr(key): text for key, text in _held(record, SYSTEM).items()}
    for key, chat in asked.items():
        found |= {f"turn {n} of {key!r}": text for n, text in enumerate(chat.system, 1)}
    for where, text in found.items():
        if not isinstance(text, str):
            raise _malformed(f"{where} is {type(text).__name__}; expected a text")
        media.check_text(text, "system prompt")
    return _agreed({where: text.strip() for where, text in found.items()}, "system prompts")


def _replies(
    record: Mapping[str, Any], asked: Mapping[str, Chat], form: Answers, mapped: Mapping[str, str]
) -> dict[str, Reply]:
    """Return what each column of a thought or an answer, and each chat, says of the reply."""
    thoughts = {repr(key): text for key, text in _held(record, THOUGHTS).items()}
    answers = {repr(key): text for key, text in _held(record, ANSWERS).items()}
    if form.structured:
        answers = {key: _as_json(value) for key, value in answers.items()}
    for key, chat in asked.items():
        thoughts |= {f"{name!r} of the reply": text for name, text in chat.thoughts.items()}
        answers |= {} if chat.reply is None else {f"the reply in {key!r}": chat.reply}
    replies = {}
    for where, text in thoughts.items():
        if not isinstance(text, str):
            raise _malformed(f"{where} is {type(text).__name__}; expected a text")
        replies[where] = _parts(where, text, "thought")
    for where, text in answers.items():
        text = chats.read_completion(where, text) if chats.is_chat(text) else text
        if not isinstance(text, str) and not is_number(text):
            raise _malformed(
                f"{where} is {type(text).__name__}, {text!r:.60}; expected a text or a number"
            )
        replies[where] = _parts(where, str(text), "answer")
    for part, field in (("cot", "thought"), ("answer", "answer")):
        for where in replies if part in mapped else ():  # its own column alone counts
            if where != repr(part):
                replies[where] = dataclasses.replace(replies[where], **{field: None})
    return replies


def _reply(
    record: Mapping[str, Any],
    replies: dict[str, Reply],
    choices: Mapping[str, str],
    base: int | None,
    form: Answers,
) -> tuple[str, str, str]:
    """Return preface, thought and answer; with options, the answer is a letter."""
    for where, reply in replies.items() if choices else ():
        if reply.answer:
            number = any(where == repr(key) and is_number(record.get(key)) for key in ANSWERS)
            letter = options.letter_of(reply.answer, choices, number=number, base=base)
            replies[where] = dataclasses.replace(reply, answer=letter)
    answer = _agreed({where: reply.answer for where, reply in replies.items()}, "answers")
    if not answer and not form.readable(answer):
        said = [where for where in replies if where.startswith("the reply in ")]
        if said:
            raise _malformed(f"{said[0]} has no answer; {_EXPECTED}, or the answer alone")
        raise _malformed(
            f"{'the answer is empty' if _held(record, ANSWERS) else 'no answer'}; expected a text "
            f"as 'answer' or 'solution', found {', '.join(record):.100}; "
            "--config.data.columns.answer=COLUMN names another column"
        )
    return (
        _agreed({where: reply.preface for where, reply in replies.items()}, "captions"),
        _agreed({where: reply.thought for where, reply in replies.items()}, "thoughts"),
        answer,
    )


def _as_json(value: Any) -> Any:
    """Return a list or an object as JSON, and any other value, or a chat, as it is."""
    is_json = isinstance(value, list | dict) and not chats.is_chat(value)
    return _json(value) if is_json else value


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
                f"{text!r:.60}; keep one of them, or choose it by data.columns"
            )
    return found.get(first, "")


def _part(record: Mapping[str, Any]) -> str:
    """Return the group of a record in the results: its "level" or "type", if it has one."""
    for key in ("level", "type"):
        value = record.get(key)
        if is_number(value) or (isinstance(value, str) and value.strip()):
            return " ".join([key, *str(value).split()])
    return ""


def _extra(record: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that become no other field of the example, as JSON values.

    The bytes of pictures that are not read are left out.
    """
    ours = _OURS | set(media.file_keys(record))
    if "A" in record and "B" in record:
        ours |= set(options.LETTERS)
    extra = {key: value for key, value in record.items() if key not in ours}
    extra |= {key: value for key, value in others.items() if not media.are_bytes(value)}
    changed: list[Any] = []
    text = _json(extra, lambda value: changed.append(value) or _plain(value))
    return json.loads(text) if changed else extra


def _json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, default=default)


def _plain(value: Any) -> Any:
    """Return a value of a table that JSON lacks, such as a date, as a text."""
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def _malformed(message: str) -> BadSample:
    return BadSample("malformed", message)


def _held(record: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the values that a record has under some keys, in the order of the keys."""
    return {key: record[key] for key in keys if key in record and not _is_missing(record[key])}


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))
