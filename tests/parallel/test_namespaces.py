"""Hosts with networks of their own: they meet, and end when one is killed, cut off or frozen."""

import os
import signal
import subprocess
import time

import pytest

from tests.parallel import runs

HEARTBEAT = 10  # seconds


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture
def hosts():
    """`make(number)`: namespaces at 10.77.0.1 and on, joined by a bridge in one more: (names, hub).

    The link of host i leaves the bridge at the port `p{i}`. Nothing is changed outside of them.
    """
    made = []

    def add(name):
        name = f"rrft-{os.getpid()}-{name}"
        ip("netns", "add", name)
        made.append(name)
        return name

    def make(number):
        try:
            hub = add("hub")
            ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces can't be made here: {error}")
        ip("-n", hub, "link", "set", "bridge", "up")
        names = [add(i) for i in range(number)]
        for i, name in enumerate(names):
            port = f"p{i}"
            peer = ("peer", "name", port, "netns", hub)
            ip("link", "add", "net", "netns", name, "type", "veth", *peer)
            ip("-n", hub, "link", "set", port, "master", "bridge", "up")
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "net")
            ip("-n", name, "link", "set", "net", "up")
            ip("-n", name, "link", "set", "lo", "up")
        return names, hub

    yield make
    for name in made:
        ip("netns", "del", name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, victim, how",
    [(2, 1, "killed"), (4, 0, "killed"), (4, 2, "cut off"), (2, 0, "frozen"), (4, 3, "frozen")],
)
def test_all_end_when_one_is(hosts, tmp_path, number, victim, how):
    names, hub = hosts(number)
    prefix = names[0].removesuffix("0")
    processes = runs.launch(
        number,
        ["-m", "tests.parallel.beating", "10.77.0.1:7777", str(number), "{}", str(HEARTBEAT)],
        tmp_path,
        wrap=("ip", "netns", "exec", f"{prefix}{{}}"),
    )
    logs = [tmp_path / f"{i}.txt" for i in range(number)]
    try:
        deadline = time.monotonic() + 300
        while not all("step 1." in log.read_text() for log in logs):
            ended = any(one.poll() is not None for one in processes)
            assert not ended and time.monotonic() < deadline, [log.read_text() for log in logs]
            time.sleep(0.05)
    except BaseException:
        for one in processes:
            one.kill()
            one.wait()
        raise
    if how == "cut off":
        ip("-n", hub, "link", "set", f"p{victim}", "down")
    else:
        processes[victim].send_signal(signal.SIGSTOP if how == "frozen" else signal.SIGKILL)
    since = time.monotonic()
    # A frozen process does not end by itself: its own end is not waited for.
    ending = [one for i, one in enumerate(processes) if how != "frozen" or i != victim]
    outputs = runs.said(processes, tmp_path, ending)
    print(f"{number}, {victim} {how}: ended after {time.monotonic() - since:.1f} s")
    assert time.monotonic() - since < 3 * HEARTBEAT
    assert all(one.returncode for one in ending), outputs
