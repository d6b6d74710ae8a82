"""launch/tpu_vm.sh on a cloud of folders: what it asks for, and what it says when that fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAKES = Path(__file__).with_name("fakes")
TYPE = ("--accelerator-type=v5litepod-16", "--zone=us-west4-a")
RUN = ("--config=configs/grpo.py:model=2b", "--workdir=bucket/runs/a b", "--config.seed=1")


class Cloud:
    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "tools").mkdir()
        gcloud = folder / "tools/gcloud"
        gcloud.write_text(f"#!{sys.executable} -IS\n{(FAKES / 'gcloud.py').read_text()}")
        gcloud.chmod(0o755)

    def launch(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = os.environ | {
            "PATH": f"{self.folder / 'tools'}:{FAKES}:{os.environ['PATH']}",
            "REAL_PYTHON": sys.executable,
            "CLOUD": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / "notes"),
            "RRFT_POLL": "0.05",
        }
        script = [str(ROOT / "launch/tpu_vm.sh"), *arguments]
        return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300)

    def succeed(self, *arguments: str) -> str:
        done = self.launch(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fail(self, *arguments: str) -> str:
        """What a launch that fails says; its last line is the error, and the only one."""
        done = self.launch(*arguments)
        lines = done.stderr.splitlines()
        assert done.returncode == 1 and sum(line.startswith("error: ") for line in lines) == 1
        return lines[-1]

    def calls(self, *verbs: str) -> list[list[str]]:
        """Command lines, those of the given verbs, without `compute tpus`."""
        file = self.folder / "calls"
        lines = [json.loads(line)[2:] for line in file.read_text().splitlines()]
        return [line for line in lines if not verbs or line[1] in verbs]

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def read(self, name: str) -> list[str]:
        return (self.folder / name).read_text().splitlines()


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


@pytest.fixture
def up(cloud):
    """Spot machines that are there, and as `setup` leaves them."""
    for worker in ("worker-0", "worker-1"):
        project = cloud.folder / worker / "rrft_jax"
        (project / ".venv/bin").mkdir(parents=True)
        (project / ".venv/bin/python").symlink_to(FAKES / "python3.12")
        (project / ".venv/installed-tpu").touch()
        (project / "bucket").mkdir()
    (cloud.folder / "notes/rrft_jax").mkdir(parents=True)
    cloud.write("notes/rrft_jax/mine.create", "\n".join([*TYPE, "--spot"]))
    cloud.write("request", "ACTIVE")
    cloud.write("node", "READY")
    return cloud


def test_create_asks_in_the_queue_or_at_once(cloud):
    cloud.succeed("create", "mine", *TYPE, "--spot", "--network=a b")
    cloud.succeed("create", "other", *TYPE, "--preemptible", "--now", "--project=lab")
    queued, now = cloud.calls("create")
    assert queued[:3] == ["queued-resources", "create", "mine"]
    assert set(queued[3:]) == {
        "--node-id=mine", *TYPE, "--spot", "--network=a b", "--runtime-version=v2-alpha-tpuv5-lite"
    }  # fmt: skip
    assert now[:3] == ["tpu-vm", "create", "other"]
    assert set(now[3:]) == {
        *TYPE, "--preemptible", "--version=v2-alpha-tpuv5-lite", "--project=lab"
    }  # fmt: skip


def test_setup_brings_the_checkout_to_every_worker(cloud):
    cloud.succeed("create", "mine", *TYPE, "--now")
    cloud.succeed("setup", "mine", "--bucket=gs://shelf")
    for worker in ("worker-0", "worker-1"):
        home = cloud.folder / worker / "rrft_jax"
        assert (home / "rrft_jax/main.py").read_bytes() == (ROOT / "rrft_jax/main.py").read_bytes()
        assert (home / "bucket").resolve() == cloud.folder / "buckets/shelf"
        assert not (home / "runs").exists() and not (home / ".git").exists()
    installs = cloud.read("installed")
    assert len(installs) == 2 and all(
        "-c constraints.txt -e .[tpu]" in install for install in installs
    )
    cloud.succeed("setup", "mine", "--bucket=gs://shelf")
    assert cloud.read("installed") == installs  # nothing is installed twice


def test_a_run_starts_on_all_workers_with_its_arguments_untouched(up):
    out = up.succeed("run", "mine", *RUN)
    assert sorted(up.read("started")) == [f"mine-w-{n}|{'|'.join(RUN)}|" for n in (0, 1)]
    assert "[mine-w-0] sft 5/5" in out and "[mine-w-1] sft 5/5" in out
    (ssh,) = [call for call in up.calls("ssh") if "rrft_jax.main" in str(call)]
    assert "--worker=all" in ssh and "--zone=us-west4-a" in ssh
    assert "mine-w-1: exit 0: sft 5/5" in up.succeed("status", "mine")
    assert not up.calls("delete")


def test_arguments_are_not_commands(up):
    hostile = f"--config.model.path=$(touch {up.folder}/a); touch {up.folder}/b '"
    up.succeed("run", "mine", *RUN, hostile)
    assert all(line.endswith(f"|{hostile}|") for line in up.read("started"))
    assert not {"a", "b"} & {file.name for file in up.folder.iterdir()}


@pytest.mark.parametrize("queue", [True, False])
def test_a_preempted_run_goes_on_on_new_machines(cloud, queue):
    kind = ("--spot",) if queue else ("--preemptible", "--now")
    cloud.succeed("create", "mine", *TYPE, *kind)
    shared = cloud.folder / "buckets/shelf/runs/a b"  # both have begun when they are taken away
    cloud.write("preempt", "\n".join(str(shared / f"mine-w-{n}/3") for n in (0, 1)))
    cloud.succeed("status", "mine")  # the queue has come to it
    cloud.succeed("setup", "mine", "--bucket=shelf")
    if not queue:
        cloud.write("fail-create", "ERROR: There is no more capacity in the zone\n" * 2)
    cloud.write("fail-scp", "ERROR: (x) exited with return code [255].")  # sshd isn't up yet
    out = cloud.succeed("run", "mine", *RUN)
    runs = cloud.read("started")
    assert len(runs) == 4 and len(set(runs)) == 2  # the same command, twice on each
    assert out.count("[mine-w-1] sft 3/5") == 1 and "[mine-w-1] sft 4/5" in out  # it resumed
    creates = cloud.calls("create")
    assert len(creates) == (2 if queue else 4) and all(call == creates[0] for call in creates)
    (delete,) = cloud.calls("delete")
    assert delete[2] == "mine"
    assert len(cloud.calls("scp")) == 3  # set up again, at the second try


def test_machines_that_are_not_spot_are_never_replaced(cloud):
    cloud.succeed("create", "mine", *TYPE)
    cloud.write("request", "SUSPENDED")
    assert "SUSPENDED, and not known here as spot" in cloud.fail("run", "mine", *RUN)
    (cloud.folder / "request").unlink()
    assert "there is no such machine" in cloud.fail("run", "mine", *RUN)
    assert not cloud.calls("delete") and len(cloud.calls("create")) == 1


def test_a_worker_out_of_reach_is_tried_again_and_starts_once(up):
    up.write("unreachable", "1")
    up.succeed("run", "mine", *RUN)
    assert len(up.read("started")) == 2


def test_a_worker_that_stays_out_of_reach_is_named(up):
    up.write("fail-ssh", "worker 1 failed: ERROR: exited with return code [255].\n" * 9)
    error = up.fail("run", "mine", *RUN)
    assert error.startswith("error: run mine: worker 1 failed: ") and "see: status mine" in error


def test_a_run_that_fails_is_not_repeated(up):
    up.write("broken", "error: unknown config key sed\n")
    error = up.fail("run", "mine", *RUN)
    assert error.startswith("error: run mine: mine-w-") and "exit 1" in error
    assert len(up.read("started")) == 2
    (up.folder / "broken").unlink()
    up.succeed("run", "mine", *RUN)  # asked for again, it starts again
    assert len(up.read("started")) == 4


def test_machines_that_were_not_set_up_are(cloud):
    cloud.succeed("create", "mine", *TYPE, "--now")
    cloud.succeed("run", "mine", "--workdir=runs/a")
    assert len(cloud.read("started")) == 2


@pytest.mark.parametrize(
    "said, expected",
    [
        ("ERROR: (x) RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' exceeded. Limit: 0", "ask for quota"),
        ('ERROR: There is no more capacity in the zone "us-west4-a"', "try another --zone"),
        ("ERROR: You do not currently have credentials: gcloud auth login", "gcloud auth login"),
        ("ERROR: (x) INVALID_ARGUMENT: no such type", "INVALID_ARGUMENT: no such type"),
    ],
)
def test_what_the_cloud_refuses_is_one_line_that_helps(cloud, said, expected):
    cloud.write("fail-create", said)
    error = cloud.fail("create", "mine", *TYPE)
    assert error.startswith("error: create mine: ") and expected in error
    assert not (cloud.folder / "notes").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "expected create, setup, run, logs, status or delete"),
        (("destroy", "mine"), "destroy: expected create,"),
        (("delete",), "expected a NAME"),
        (("delete", "mine", "others"), "others: expected one NAME and nothing else"),
        (("delete", "*"), "expected a NAME of small letters"),
        (("create", "--spot"), "expected a NAME"),
        (("create", "mine", "--spot"), "expected --accelerator-type=TYPE"),
        (("create", "mine", *TYPE, "--preemptible"), "expected --spot, or --now too"),
        (("setup", "mine", "shelf"), "expected nothing, or --bucket=BUCKET"),
        (("run", "mine", "--config.seed=1"), "expected --workdir=DIR"),
    ],
)
def test_mistakes_end_in_one_line_and_nothing_is_asked(cloud, arguments, message):
    assert message in cloud.fail(*arguments)
    assert not (cloud.folder / "calls").exists()


def test_delete_takes_what_it_was_asked_for(up):
    up.succeed("delete", "mine")
    (delete,) = up.calls("delete")
    assert delete[:3] == ["queued-resources", "delete", "mine"] and "--force" in delete
    assert "delete mine: " in up.fail("delete", "mine")


def test_without_gcloud_it_says_so(cloud, monkeypatch):
    tools = cloud.folder / "without"
    tools.mkdir()
    for tool in ("bash", "env", "dirname", "mkdir", "date", "mktemp", "rm", "sed", "grep", "cat"):
        path = subprocess.check_output(["which", tool], text=True).strip()
        (tools / tool).symlink_to(path)
    done = subprocess.run(
        [str(ROOT / "launch/tpu_vm.sh"), "status", "mine"],
        env={"PATH": str(tools), "HOME": str(cloud.folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.startswith("error: gcloud isn't installed")
