"""Which machines make a run of several processes; what the command line says of them."""

import glob

import pytest

from rrft_jax import main
from rrft_jax.errors import UserError
from rrft_jax.parallel import distributed
from tests.parallel import runs

SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
GKE = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.fixture
def machine(monkeypatch):
    """Makes the environment that of another machine; it has a TPU if the cloud tells of it."""
    for name in (*SLURM, *GKE, "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)

    def make(environment, cloud=None):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(glob, "glob", lambda pattern: ["/dev/accel0"] * (cloud is not None))
        monkeypatch.setattr(distributed, "_metadata", lambda key: cloud.get(key, ""))

    return make


@pytest.mark.parametrize(
    "environment, cloud",
    [
        ({}, None),  # a laptop
        (SLURM, None),  # salloc's shell, or the script that sbatch starts
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({}, {}),  # a notebook with a TPU, where there's no cloud to ask
        ({}, {"worker-network-endpoints": "unknown:unknown:10.0.0.2"}),  # a TPU VM
        ({**GKE, "TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_PROCESS_ADDRESSES": "local", "TPU_WORKER_HOSTNAMES": "localhost"}, {}),
        ({"JAX_PLATFORMS": "cpu"}, {"worker-network-endpoints": "a,b"}),
    ],
    ids=["laptop", "salloc", "srun -n1", "notebook", "TPU VM", "GKE host", "Kaggle", "on the CPU"],
)
def test_one_process_stays_alone(machine, environment, cloud):
    machine(environment, cloud)
    assert distributed._found() == 1


@pytest.mark.parametrize(
    "environment, cloud",
    [
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "4"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, None),
        ({}, {"worker-network-endpoints": "a:0:10.0.0.2,b:1:10.0.0.3"}),
        ({}, {"worker-network-endpoints": "a", "tpu-env": "X: '1'\nMEGASCALE_NUM_SLICES: '2'"}),
        (GKE, None),
    ],
    ids=["srun", "GKE TPU", "GKE slices", "TPU VMs", "TPU VM slices", "GKE GPU"],
)
def test_several_are_found(machine, environment, cloud):
    machine(environment, cloud)
    assert distributed._found() == 0


def test_a_lone_task_on_a_node_has_all_its_gpus(monkeypatch):
    for tasks, gpus, expected in (
        ("1(x4)", "8", range(8)),
        ("1", "2", range(2)),
        ("8(x2)", "8", None),
        ("", "8", None),
    ):
        monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", tasks)
        monkeypatch.setenv("SLURM_GPUS_ON_NODE", gpus)
        assert distributed._devices_of_a_lone_task() == expected


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--coordinator=a:1"], "--num_processes=N --process_id=I together"),
        (["--num_processes=2"], "--process_id=0 of --num_processes=2"),
        (["--coordinator=a", "--num_processes=2", "--process_id=0"], "expected HOST:PORT"),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=2"], "expected 0 to 1"),
        (["--num_processes=x"], "invalid int value"),
        (["--heartbeat_seconds=0"], "expected 1 or more"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, capsys):
    assert main.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("process_id", [0, 1])
def test_one_that_waits_for_the_others_in_vain_ends_in_one_line(process_id, tmp_path):
    """The first of three, which would hold the meeting, and the second, with nobody to hold it."""
    program = (
        "from rrft_jax.parallel import distributed\n"
        "distributed.MEETING_SECONDS = 2\n"
        f"distributed.initialize('127.0.0.1:{runs.free_port()}', 3, {process_id})\n"
    )
    (process,) = processes = runs.launch(1, ["-c", program], tmp_path)
    (output,) = runs.said(processes, tmp_path)
    assert process.returncode == 1, output
    assert output.startswith("error: the other processes weren't found (not all of them came in 2")
    assert output.count("\n") == 1


def test_in_one_process_nothing_is_exchanged():
    assert distributed.is_host0() and distributed.gather("a") == ["a"]
    assert distributed.gather_rows([2, 0], ["c", "a"]) == ["a", "c"]
    assert not distributed.agree(False) and distributed.on_host0(lambda: 3) == 3

    def wrong():
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        distributed.on_host0(wrong)


def test_rows_of_several_processes_come_in_order_and_once():
    assert distributed.merged([{0: "a", 3: "d"}, {1: "b", 3: "other"}]) == ["a", "b", "d"]
