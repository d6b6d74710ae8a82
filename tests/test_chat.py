"""A model is asked on the command line: once, or in a conversation that survives mistakes."""

import io
import json
import sys

import pytest
from PIL import Image

from rrft_jax import chat, fields
from rrft_jax.assets import TINY
from rrft_jax.settings import Config, ModelSettings


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 60), "red").save("a.png")
    Image.new("RGB", (60, 60), "blue").save("a blue one.png")
    (tmp_path / "b.png").write_text("no picture")
    (tmp_path / "run").mkdir()  # an evaluation of the packaged model
    config = Config(model=ModelSettings(compute_dtype="float32"))
    (tmp_path / "run" / "config.json").write_text(json.dumps(fields.plain(config)))


def ask(capsys, *arguments):
    code = chat.main(["run", "--max_new_tokens=8", *arguments])
    return code, *capsys.readouterr()


def converse(capsys, monkeypatch, lines, *arguments):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return ask(capsys, *arguments)


def test_a_question_is_answered_and_that_is_all(capsys):
    code, out, _ = ask(capsys, "--picture=a.png", "How many?")
    assert code == 0 and out.strip()
    assert ask(capsys, "How many?", "--picture", "a.png")[1] == out
    told = ask(capsys, "--picture=a.png", "--instruction=Say it.", "--temperature=2", "How many?")
    assert told[0] == 0 and told[1] != out


def test_a_conversation_goes_on_after_mistakes(capsys, monkeypatch):
    lines = ["a.png", "How many?", "/picture b.png", "How many?", "/pictures x", "/picture 'a", ""]
    lines += ["In <image> and <image>?", "/picture 'a blue one.png'", "How many?", "/help", "/quit"]
    code, out, err = converse(capsys, monkeypatch, [*lines, "never read"])
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 0 and len(errors) == 4 and len(err.splitlines()) < 20
    assert "error: b.png: " in errors[0] and "/pictures: unknown command" in errors[1]
    assert "No closing quotation" in errors[2] and "2 <image> in the question for 1" in errors[3]
    replies = out[: out.index("/picture PATH")].splitlines()
    assert replies and "/quit" in out
    # The end of the input ends the conversation.
    again = converse(capsys, monkeypatch, ["How many?", "How many?"], "--picture=a.png")
    assert again[0] == 0 and out.startswith(again[1].splitlines()[0])
    assert converse(capsys, monkeypatch, [])[0] == 0


class Interrupting(io.StringIO):
    """A terminal at which somebody presses Ctrl-C."""

    def readline(self, *args):
        raise KeyboardInterrupt


def test_ctrl_c_at_the_prompt_ends_the_conversation(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Interrupting())
    assert ask(capsys)[0] == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "nowhere: no such folder; "),
        (["Qwen/Qwen2-VL-2B-Instruct"], "download it first (hf download Qwen/Qwen2-VL-2B"),
        ([str(TINY), "--picture=c.png", "How many?"], "c.png: no such picture file"),
        ([str(TINY), "--picture=b.png", "How many?"], "b.png: cannot identify image"),
        ([str(TINY), "--temperature=-1", "How many?"], "temperature=-1.0: expected a number, 0 or"),
        ([str(TINY), "--temperature=hot", "How many?"], "--temperature: invalid float value"),
        ([str(TINY), "--nothing=1"], "--nothing=1"),
        ([], "RUN"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert chat.main(arguments) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and message in err
    assert err.count("\n") == 1 and not out


def test_a_reply_does_not_control_the_terminal(capsys):
    from rrft_jax.asking import Reply

    chat._say(Reply("<think>\na\x1b[2J\n</think>\n<answer>\nb\n</answer>"), parts=True)
    assert capsys.readouterr().out == "thought: a\\x1b[2J\nanswer: b\n"
    chat._say(Reply("1 +\n1", finished=False), parts=True)
    out, err = capsys.readouterr()
    assert out == "1 +\n1\n" and "cut off" in err
