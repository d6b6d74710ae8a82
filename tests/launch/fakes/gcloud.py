"""A cloud in the folder $CLOUD: `gcloud compute tpus ...` as far as launch/tpu_vm.sh uses it.

Its machines are folders, in which it really runs what is sent to them. `node` and `request` hold
the states of the two resources, `calls` every command line. A file `fail-VERB` holds what that
command says while it fails, once a line; `unreachable` the number of a worker that the next ssh
doesn't reach; `preempt` files, one a line: once all are there the machines are taken away.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

CLOUD = pathlib.Path(os.environ["CLOUD"])
WORKERS = 2


def main(group: str, verb: str, name: str, options: list[str]) -> int:
    errors = CLOUD / f"fail-{verb}"
    if errors.exists():
        said, *later = errors.read_text().splitlines()
        errors.write_text("\n".join(later)) if later else errors.unlink()
        return fail(said)
    resource = CLOUD / ("request" if group == "queued-resources" else "node")
    if verb == "create":
        # The next look finds a request waiting, the one after it the machine.
        resource.write_text("WAITING_FOR_RESOURCES" if group == "queued-resources" else "READY")
        return 0
    if verb in ("scp", "ssh"):
        return {"scp": scp, "ssh": ssh}[verb](name, options)
    if not resource.exists():
        return fail(f"ERROR: (gcloud.compute.tpus.{group}.{verb}) NOT_FOUND: {name} was not found")
    if verb == "delete":
        for file in (CLOUD / "node", resource):
            file.unlink(missing_ok=True)
        return 0
    print(resource.read_text())
    if resource.read_text() == "WAITING_FOR_RESOURCES":
        resource.write_text("ACTIVE")
        (CLOUD / "node").write_text("READY")
    return 0


def scp(source: str, options: list[str]) -> int:
    for worker in range(WORKERS):
        home(worker).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, home(worker) / options[0].split(":")[1])
    return 0


def ssh(name: str, options: list[str]) -> int:
    given = dict(option.removeprefix("--").split("=", 1) for option in options if "=" in option)
    chosen = range(WORKERS) if given["worker"] == "all" else [int(given["worker"])]
    missed = CLOUD / "unreachable"
    lost = [int(missed.read_text())] if missed.exists() else []
    missed.unlink(missing_ok=True)
    running = []
    for worker in chosen:
        if worker not in lost:
            home(worker).mkdir(parents=True, exist_ok=True)
            machine = os.environ | {"HOME": str(home(worker)), "HOSTNAME": f"{name}-w-{worker}"}
            command = ["bash", "-c", given["command"]]
            running.append(subprocess.Popen(command, env=machine, cwd=home(worker)))
    preempt = CLOUD / "preempt"
    if preempt.exists() and "rrft_jax.main" in given["command"]:
        files = [pathlib.Path(line) for line in preempt.read_text().splitlines()]
        while not all(file.exists() for file in files):
            time.sleep(0.02)
        take_away()
        preempt.unlink()
    codes = [process.wait() for process in running]
    for worker in lost:
        print(f"WARNING: worker {worker} failed with exit status 255. Continuing.", file=sys.stderr)
        return fail("ERROR: (gcloud.compute.tpus.tpu-vm.ssh) exited with return code [255].")
    return max(codes)


def take_away() -> None:
    """What a preemption does: all processes get SIGTERM, the disks are gone, the states change."""
    for file in CLOUD.glob("worker-*/rrft_jax/run.pid"):
        os.killpg(int(file.read_text()), signal.SIGTERM)
        while not file.with_name("run.exit").exists():
            time.sleep(0.02)
    time.sleep(0.3)
    for worker in range(WORKERS):
        shutil.rmtree(home(worker), ignore_errors=True)
    (CLOUD / "node").unlink()
    if (CLOUD / "request").exists():
        (CLOUD / "request").write_text("SUSPENDED")
    else:
        (CLOUD / "node").write_text("PREEMPTED")


def home(worker: int) -> pathlib.Path:
    return CLOUD / f"worker-{worker}"


def fail(said: str) -> int:
    print(said, file=sys.stderr)
    return 1


if __name__ == "__main__":
    with (CLOUD / "calls").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    assert sys.argv[1:3] == ["compute", "tpus"], sys.argv
    sys.exit(main(*sys.argv[3:6], sys.argv[6:]))
