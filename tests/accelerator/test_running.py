"""A part that goes wrong ends alone, and what was measured is on the disk at every moment."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rrft_jax.accelerator import parts, running
from rrft_jax.accelerator.__main__ import main
from rrft_jax.accelerator.parts import Part
from rrft_jax.accelerator.running import Check

PLANTED = "tests.accelerator.planted"


@pytest.fixture
def plant(monkeypatch):
    """`plant(name, ...)`: these parts are the check's."""

    def put(*names, seconds=60.0, **fields):
        chosen = {name: Part(f"{PLANTED}.{name}", seconds, **fields) for name in names}
        for module in (parts, running):
            monkeypatch.setattr(module, "PARTS", chosen)
        return list(chosen)

    return put


def read(folder):
    return json.loads((folder / "accelerator.json").read_text())


def test_parts_that_go_wrong_end_alone_and_say_why(plant, tmp_path, capsys):
    plant("crashes", "is_full", "lacks", "skips", "misses")
    assert main([f"--out={tmp_path}", f"--parts={','.join(parts.PARTS)}"]) == 1
    found = read(tmp_path)["parts"]
    outcomes = {name: (part["status"], part["why"]) for name, part in found.items()}
    assert outcomes["crashes"] == (
        "failed",
        "its process ended by SIGSEGV; see accelerator.log",
    )
    assert found["crashes"]["findings"][0]["what"] == "before"
    status, why = outcomes["is_full"]
    assert (status, "\n" in why) == ("failed", False)
    assert why.startswith("the device's memory is full; end other programs on it (RESOURCE_EXHAU")
    assert outcomes["lacks"] == ("failed", "the package no_such_package is not installed")
    assert outcomes["skips"] == ("skipped", "nothing to compare with")
    assert outcomes["misses"] == ("no", "")
    assert [finding["holds"] for finding in found["misses"]["findings"]] == [False, None]
    printed = capsys.readouterr().out
    assert "to look at: crashes, is_full, lacks, misses" in printed
    assert "| error  |   0.5 | at most 0.1 |    NO |" in printed
    assert "Traceback" in (tmp_path / "accelerator.log").read_text()


def test_a_part_ends_at_its_limit_and_keeps_its_findings(plant, tmp_path, monkeypatch):
    names = plant("hangs", "skips", seconds=3.0)
    monkeypatch.setattr(running, "LEAST", 0.5)
    check = Check(tmp_path, names, running.USUAL, lambda name, outcome: None)
    check.run()
    hangs = read(tmp_path)["parts"]["hangs"]
    assert (hangs["status"], hangs["why"]) == ("stopped", "it took longer than 3 s")
    assert [finding["what"] for finding in hangs["findings"]] == ["before"]
    assert check.outcomes["skips"].status == "skipped"
    assert not check.holds


def test_without_time_a_part_is_not_begun(plant, tmp_path):
    check = Check(tmp_path, plant("misses"), 1.0, lambda name, outcome: None)
    check.run()
    part = read(tmp_path)["parts"]["misses"]
    assert (part["status"], part["why"]) == (
        "not begun",
        "no time was left: give more by --minutes",
    )


def test_without_a_device_no_part_is_begun(plant, tmp_path, capsys):
    plant("refuses", "misses", needed=True)
    assert main([f"--out={tmp_path}", f"--parts={','.join(parts.PARTS)}"]) == 1
    found = read(tmp_path)["parts"]
    assert found["refuses"]["why"] == "this machine has no device"
    assert found["misses"]["why"] == "without the part refuses no other makes sense"
    assert "to look at: refuses, misses" in capsys.readouterr().out


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_check_with_what_was_measured(sent, tmp_path):
    program = (
        "import sys\n"
        "from rrft_jax.accelerator import parts\n"
        "from rrft_jax.accelerator.__main__ import main\n"
        f"parts.PARTS['device'] = parts.Part('{PLANTED}.hangs', 60)\n"
        f"sys.exit(main(['--out={tmp_path}', '--parts=device,kernels']))\n"
    )
    check = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    file = tmp_path / "accelerator.json"
    while not file.exists() or not read(tmp_path)["parts"]["device"]["findings"]:
        assert check.poll() is None
        time.sleep(0.05)
    check.send_signal(sent)
    printed, _ = check.communicate(timeout=30)
    assert (check.returncode, printed) == (130, f"stopped: what was measured is in {file}\n")
    found = read(tmp_path)["parts"]
    assert [part["status"] for part in found.values()] == ["stopped", "not begun"]
    assert found["device"]["findings"][0]["value"] == 1.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--parts=device,kernel"], "--parts=device,kernel: 'kernel' is not one of device, kern"),
        (["--minutes=0"], "--minutes=0: expected a number above 0"),
        (["--minutes=nan"], "--minutes=nan: expected a number above 0"),
        (["--out=/dev/null/found"], "--out=/dev/null/found: this folder can't be made"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: {message}") and err.count("\n") == 1
