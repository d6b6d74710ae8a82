"""The order in which cells are launched, and what happens when one fails or the study is stopped.

The runs here are stand-ins, which end when the test says so.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

from rrft_jax.errors import UserError
from rrft_jax.monitoring import interrupts
from rrft_jax.study import running
from rrft_jax.study.cells import Choice, read

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/study.py")


@dataclasses.dataclass
class Run:
    folder: Path
    log: Path | None
    code: int | None = None
    signals: int = 0

    def poll(self):
        return self.code

    def send_signal(self, number):
        self.signals += 1
        self.code = 0

    def end(self, code=0):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text("{}")
        (self.folder / "results.json").write_text(json.dumps({"start": {}}))
        if code == 0:
            (self.folder / "table.md").write_text("")
        self.code = code


class Machine:
    """Launches stand-ins; `turn` is called with those under way whenever the study waits."""

    def __init__(self, monkeypatch, turn):
        self.launched: list[Run] = []
        self.most = 0
        self._turn = turn
        monkeypatch.setattr(running.time, "sleep", self._wait)

    def __call__(self, arguments, log):
        [folder] = [a.partition("=")[2] for a in arguments if a.startswith("--workdir=")]
        self.launched.append(Run(Path(folder), log))
        return self.launched[-1]

    def _wait(self, seconds):
        under_way = [run for run in self.launched if run.code is None]
        self.most = max(self.most, len(under_way))
        self._turn(under_way)

    @property
    def names(self):
        return [run.folder.name for run in self.launched]


def of(out, **choice):
    return read(CONFIG, (), out, Choice(**choice))


def test_runs_side_by_side_are_never_more_and_a_follower_waits(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, lambda runs: runs[-1].end())  # the last one ends first
    cells, ended = of(tmp_path, paradigms=["reason_rft"], samples=[6400, 25600], seeds=[0, 1]), []
    running.run(cells, machine, ended.append, jobs=3)
    assert machine.most == 2  # both followers wait
    assert machine.names[:2] == ["reason_rft-6400-0", "reason_rft-6400-1"]
    assert machine.names[2] == "reason_rft-25600-1" and len(ended) == 4
    assert machine.launched[0].log == tmp_path / "visual_counting" / "reason_rft-6400-0.log"


def test_after_a_failure_the_others_save_and_nothing_else_begins(monkeypatch, tmp_path):
    machine = Machine(monkeypatch, lambda runs: runs[0].end(code=1))
    cells = of(tmp_path, paradigms=["ans_sft"], samples=[400], seeds=[0, 1, 2])
    with pytest.raises(UserError, match=r"ans_sft-400-0 .* exit code 1: see .*ans_sft-400-0\.log"):
        running.run(cells, machine, lambda cell: None, jobs=2)
    assert machine.names == ["ans_sft-400-0", "ans_sft-400-1"]
    assert machine.launched[1].signals == 1


def test_a_signal_reaches_every_run_once(monkeypatch, tmp_path):
    def turn(runs):
        monkeypatch.setattr(interrupts, "_noted", 15)

    machine = Machine(monkeypatch, turn)
    cells = of(tmp_path, paradigms=["ans_sft"], samples=[400], seeds=[0, 1, 2])
    with pytest.raises(interrupts.Interrupted):
        running.run(cells, machine, lambda cell: None, jobs=2)
    assert [run.signals for run in machine.launched] == [1, 1]


def test_a_launched_run_has_its_own_session(monkeypatch, tmp_path):
    (tmp_path / "rrft_jax").mkdir()  # a stand-in that says how it was launched
    (tmp_path / "rrft_jax" / "__init__.py").write_text("")
    (tmp_path / "rrft_jax" / "main.py").write_text(
        "import os, sys\nprint(os.getsid(0) == os.getpid(), sys.argv[1:])"
    )
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    process = running.launch_run(["--a", "b"], log)
    assert process.wait() == 0 and os.path.basename(sys.executable) in process.args[0]
    assert log.read_text() == "True ['--a', 'b']\n"
