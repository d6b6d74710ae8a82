"""The scripts are sound; what Slurm and GKE start ends, stops and goes on as they must be told."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FAKES = Path(__file__).with_name("fakes")
SCHEMA = json.loads(Path(__file__).with_name("jobset.schema.json").read_text())
MANIFEST = yaml.safe_load((ROOT / "launch/gke.yaml").read_text())
RUN = ("--config=configs/grpo.py:model=2b", "--workdir=runs/a b")


@pytest.fixture
def folder(tmp_path):
    """A checkout whose Python is the fake one, and a PATH on which srun and scontrol are."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    tools = tmp_path / "tools"
    tools.mkdir()
    for python in (tmp_path / ".venv/bin/python", tools / "python"):
        python.symlink_to(FAKES / "python3.12")
    for name, line in (
        ("srun", 'echo "$@" >> "$CLOUD/srun"; while [[ $1 == -* ]]; do shift; done; exec "$@"'),
        ("scontrol", 'echo "$@" >> "$CLOUD/scontrol"'),
    ):
        (tools / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (tools / name).chmod(0o755)
    return tmp_path


def start(folder: Path, command: list[str]) -> subprocess.Popen:
    environment = os.environ | {
        "PATH": f"{folder / 'tools'}:{os.environ['PATH']}",
        "CLOUD": str(folder),
        "HOSTNAME": "host",
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "17",
        "SLURM_CPUS_PER_TASK": "3",
    }
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=-1, stderr=subprocess.STDOUT, text=True
    )


def pod() -> list[str]:
    job = MANIFEST["spec"]["replicatedJobs"][0]["template"]["spec"]
    return job["template"]["spec"]["containers"][0]["command"]


COMMANDS = {"slurm": ["bash", str(ROOT / "launch/slurm.sbatch")], "gke": pod()}


def stop_at_third_step(folder: Path, command: list[str]) -> subprocess.Popen:
    (folder / "preempt").touch()  # the fake run waits there
    process = start(folder, command)
    while not (folder / "runs/a b/host/3").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.wait(300)
    (folder / "preempt").unlink()
    return process


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_run_gets_its_arguments_and_hands_back_its_status(folder, kind):
    command = [*COMMANDS[kind], *RUN]
    out, _ = start(folder, command).communicate(timeout=300)
    assert "sft 5/5" in out
    assert (folder / "started").read_text() == f"host|{'|'.join(RUN)}|\n"
    (folder / "broken").write_text("error: unknown config key sed\n")
    process = start(folder, command)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "unknown config key sed" in out
    assert not (folder / "scontrol").exists()


def test_a_job_that_slurm_stops_saves_and_queues_again(folder):
    command = [*COMMANDS["slurm"], *RUN]
    process = stop_at_third_step(folder, command)
    assert process.returncode == 0 and "stopped: after step 3" in process.stdout.read()
    assert (folder / "scontrol").read_text() == "requeue 17\n"
    assert start(folder, command).wait(300) == 0
    assert (folder / "runs/a b/host/5").exists()


def test_a_pod_that_is_stopped_has_not_succeeded(folder):
    process = stop_at_third_step(folder, [*COMMANDS["gke"], *RUN])
    assert process.returncode == 143 and "stopped: after step 3" in process.stdout.read()
    job = MANIFEST["spec"]["replicatedJobs"][0]["template"]["spec"]
    codes = [rule.get("onExitCodes", {}).get("values") for rule in job["podFailurePolicy"]["rules"]]
    assert [143] in codes  # it starts again whatever the number of restarts


@pytest.mark.parametrize("arguments, message", [((), "expected --workdir=DIR"), (RUN, ".venv")])
def test_slurm_s_mistakes_are_one_line(folder, arguments, message):
    (folder / ".venv/bin/python").unlink()
    process = start(folder, [*COMMANDS["slurm"], *arguments])
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and out.startswith("error: ") and out.count("\n") == 1
    assert message in out and not (folder / "srun").exists()


def test_the_manifest_fits_the_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(MANIFEST, SCHEMA)
    job = MANIFEST["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["parallelism"] == job["completions"]  # a process a host
    spec = job["template"]["spec"]
    mounted = {mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize(
    "path, value",
    [
        (("spec", "maxRestarts"), 3),  # it belongs into the failurePolicy
        (("spec", "failurePolicy", "rules", 0, "action"), "Restart"),
        (("spec", "failurePolicy", "rules", 0, "onJobFailureReasons"), ["Preempted"]),
        (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), "4"),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "image"), "x"),
        (("metadata", "name"), "rrft_jax"),
    ],
)
def test_the_schema_refuses_mistakes(path, value):
    manifest = copy.deepcopy(MANIFEST)
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, SCHEMA)


def test_shellcheck_finds_nothing(tmp_path):
    inside = tmp_path / "pod.sh"
    inside.write_text(f"#!/bin/bash\n{pod()[2]}")
    fakes = [FAKES / name for name in ("python3.12", "gcsfuse", "mountpoint")]
    files = [*(ROOT / "launch").glob("*.s*"), ROOT / ".ci/run", *fakes, inside]
    assert {ROOT / "launch" / name for name in ("demo.sh", "slurm.sbatch")} < set(files)
    command = [Path(sys.executable).with_name("shellcheck"), "--external-sources", *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
