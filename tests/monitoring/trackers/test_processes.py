"""No tracker stops or delays a run: a package that is missing, a process that hangs or dies."""

import os
import signal
import time

import pytest

from rrft_jax.errors import UserError
from rrft_jax.monitoring import trackers
from rrft_jax.monitoring.trackers import follower, processes
from rrft_jax.monitoring.trackers.processes import Trackers


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(follower, "PATIENCE", 0.3)
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.2)


def warnings(capfd) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]


def test_a_package_that_is_missing_is_an_error_that_names_the_extra(monkeypatch, tmp_path):
    (tmp_path / "absent_tracker").mkdir()  # as the folder `wandb` of another project's run
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"pip install 'rrft_jax\[absent_tracker\]'"):
        trackers.check(["absent_tracker"])
    trackers.check(["tensorboard"])


def test_without_trackers_nothing_is_written(tmp_path):
    Trackers((), tmp_path, {}, {}).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number, code", [(signal.SIGSTOP, -9), (signal.SIGSEGV, -11)])
def test_a_process_that_hangs_or_crashes_is_reported_once(number, code, tmp_path, capfd):
    own = Trackers(["tensorboard"], tmp_path, {}, {})
    os.kill(own._processes["tensorboard"].pid, number)
    began = time.monotonic()
    own.close()
    assert time.monotonic() - began < 5
    [line] = warnings(capfd)
    assert f"tracker tensorboard: its process ended with exit code {code};" in line


def test_a_tracker_that_raises_is_reported_in_one_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(follower, "PATIENCE", 30.0)
    (tmp_path / "tensorboard").write_text("no folder")
    Trackers(["tensorboard"], tmp_path, {}, {}).close()
    [line] = warnings(capfd)
    assert "tracker tensorboard: FileExistsError: " in line
