"""What the tests of records share: rows in their usual forms, and what becomes of them."""

import json

from rrft_jax.data import BadSample, read_examples

TASK = "visual_counting"


def read_rows(tmp_path, *rows, task=TASK, image_root=""):
    """Return the examples after a good record; a file of bad records alone is an error."""
    good = {"problem": "How many?", "answer": "1"}
    (tmp_path / "data.json").write_text(json.dumps([good, *rows]))
    return read_examples(str(tmp_path / "data.json"), task, "train", image_root)[1:]


def row_of(**fields):
    return {"problem": "How many?", "answer": "1"} | fields


def chat_of(question, reply="1", form="messages", **fields):
    if form == "messages":
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
    else:
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": reply}]
    return {form: turns} | fields


def refusal_of(tmp_path, row, **options):
    (bad,) = read_rows(tmp_path, row, **options)
    assert isinstance(bad, BadSample) and bad.cause == "malformed", bad
    return str(bad).partition("sample 1: ")[2]
