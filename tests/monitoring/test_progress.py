"""Progress: a line now and then in a log, a line that changes on a terminal."""

import io

from rrft_jax.monitoring import Progress, progress, say


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(stream, steps=5, start=0):
    with Progress("sft", total=steps, start=start, stream=stream) as bar:
        for step in range(start + 1, steps + 1):
            bar.update(step, {"loss": 1 / step, "note": "x"})
    return stream.getvalue()


def test_a_log_gets_few_lines():
    assert run(io.StringIO()) == "sft 1/5  loss 1  note x\nsft 5/5  loss 0.2  note x\n"
    assert run(io.StringIO(), start=3).startswith("sft 4/5")


def test_a_log_gets_the_time_left(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    lines = run(io.StringIO()).splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("sft 2/5  00:00 left  loss") and "left" not in lines[-1]


def test_a_terminal_gets_a_line_that_changes():
    text = run(Terminal(), start=2)
    assert "5/5" in text and "\r" in text


def test_say():
    stream = io.StringIO()
    say("sft: 5 steps, 2 s", stream)
    assert stream.getvalue() == "sft: 5 steps, 2 s\n"
