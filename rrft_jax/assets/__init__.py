"""What the package brings along: a small Qwen2-VL checkpoint that has seen the drawn tasks, and
the parts of the page that reports a run."""

import pathlib

TINY = pathlib.Path(__file__).parent / "tiny"
REPORT = pathlib.Path(__file__).parent / "report"
