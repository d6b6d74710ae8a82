"""What the package brings along: a small Qwen2-VL checkpoint that has seen the drawn tasks."""

import pathlib

TINY = pathlib.Path(__file__).parent / "tiny"
