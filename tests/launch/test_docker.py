"""The Dockerfiles: linted and read; built too, where a Docker engine runs."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rrft_jax import __main__ as rrft
from rrft_jax import __version__, command

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("launch/*.Dockerfile"))
CPU = ROOT / "launch/cpu.Dockerfile"


def engine_runs() -> bool:
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, arguments), in order."""
    text = re.sub(r"^#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line.strip()]


def arguments(file: Path, instruction: str) -> list[str]:
    return [words for name, words in instructions(file) if name == instruction]


@pytest.fixture(params=FILES, ids=[file.name for file in FILES])
def file(request):
    return request.param


def test_there_is_one_for_cpus_and_one_for_gpus():
    assert [file.name for file in FILES] == ["cpu.Dockerfile", "gpu.Dockerfile"]


def test_hadolint_finds_nothing(file):
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_that_is_installed_is_copied(file):
    """Every file that is copied is there, and the build and the package lack none."""
    copied = [name for words in arguments(file, "COPY") for name in words.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert {"rrft_jax", "configs", "setup.py", "pyproject.toml", "LICENSE"} <= set(copied)
    read = re.findall(r'ROOT / "([\w.]+)', (ROOT / "setup.py").read_text())
    assert {name.partition("/")[0] for name in read} <= set(copied)


def test_versions_are_the_tested_ones(file):
    [image] = arguments(file, "FROM")
    assert re.fullmatch(r"python:3\.1[12](\.\d+)?-slim-\w+", image)
    [install] = [shlex.split(words) for words in arguments(file, "RUN")]
    assert install[:2] == ["pip", "install"] and "constraints.txt" in install
    extra = re.fullmatch(r"\.(?:\[(\w+)\])?", install[-1])[1]
    assert extra == (None if file == CPU else "cuda")
    assert extra is None or f'"{extra}": [' in (ROOT / "setup.py").read_text()


def test_the_command_is_ours(file):
    assert json.loads(arguments(file, "ENTRYPOINT")[0]) == ["rrft"]
    [default] = arguments(file, "CMD")
    assert rrft.main(json.loads(default)) == 0


def test_the_commands_of_the_head_are_right(file):
    """They build this file, and run what they have built on a config that exists."""
    head = file.read_text().partition("\nFROM ")[0]
    lines = re.sub(r"\\\n#", "", head).splitlines()
    build, run = [shlex.split(line[1:]) for line in lines if line.startswith("#   docker")]
    assert build[:2] == ["docker", "build"] and build[-1] == "."
    assert ROOT / build[build.index("-f") + 1] == file
    image = build[build.index("-t") + 1]
    command.parse(run[run.index(image) + 1 :])


@pytest.mark.slow
@pytest.mark.skipif(not engine_runs(), reason="no Docker engine runs here")
def test_the_image_is_built_and_runs(tmp_path):
    image = "rrft_jax-test:cpu"
    subprocess.run(["docker", "build", "-f", CPU, "-t", image, ROOT], check=True)
    run = ["docker", "run", "--rm", "-v", f"{tmp_path}:/work", image]
    said = subprocess.run([*run, "--version"], stdout=-1, check=True, text=True).stdout
    assert said == f"rrft {__version__}\n"
    drawn = ("draw", "--task=visual_counting", "--out=scenes", "--train=1", "--test=1")
    subprocess.run([*run, *drawn], check=True)
    assert list(tmp_path.glob("scenes/train_jsons/*.json"))
