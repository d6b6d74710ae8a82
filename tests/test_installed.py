"""The wheel: built from the source distribution, whole, and working in a folder without a clone."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rrft_jax
from tests.short import QUICK, SHORT

ROOT = Path(__file__).resolve().parents[1]


def sources() -> list[str]:
    """The files of this checkout that git does not ignore."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, stdout=-1, check=True, text=True).stdout.split("\0")
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(source distribution, wheel); as everywhere, the wheel is built from the former."""
    folder = tmp_path_factory.mktemp("built")
    for name in sources():
        (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "checkout" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", f"--outdir={folder / 'dist'}"]
    done = subprocess.run([*command, folder / "checkout"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [sdist], [wheel] = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory):
    """The folder of a virtual environment with the wheel, and with what it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", python, "install"]
    subprocess.run([*pip, "--no-deps", "--no-index", built[1]], check=True)
    # Installing the dependencies anew takes minutes. So the environment sees those of this one,
    # whose link to this checkout is not followed.
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    ours = [path for path in sys.path if path.endswith("-packages")]
    (purelib / "dependencies.pth").write_text("".join(f"{path}\n" for path in ours))
    return folder


def run(environment: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Runs a command of the environment in a folder."""
    own = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}
    command = [environment / "bin" / words[0], *words[1:]]
    return subprocess.run(
        command, cwd=folder, env=own | {"XLA_FLAGS": QUICK}, capture_output=True, text=True
    )


def test_the_wheel_has_the_package_and_its_configs_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    inside = [re.sub(r"^configs/", "rrft_jax/packaged/configs/", name) for name in sources()]
    assert held == {name for name in inside if name.startswith("rrft_jax/")}


def test_the_source_distribution_has_what_a_build_needs_and_no_tests(built):
    with tarfile.open(built[0]) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    expected = ("LICENSE", "README.md", "CHANGELOG.md", "constraints.txt", "configs/grpo.py")
    assert held >= {*expected, "rrft_jax/assets/tiny/model.safetensors"}
    assert not [name for name in held if name.startswith(("tests", "docs", "launch", ".ci"))]


def test_the_version_is_that_of_the_package(built, environment, tmp_path):
    assert all(f"rrft_jax-{rrft_jax.__version__}" in file.name for file in built)
    assert run(environment, tmp_path, "rrft", "--version").stdout.split()[-1] in built[1].name


def test_configs_are_inside_the_package_and_no_other_module(environment, tmp_path):
    code = "import configs"
    assert "No module named 'configs'" in run(environment, tmp_path, "python", "-c", code).stderr
    code = "from rrft_jax import command; print(command.CONFIGS)"
    folder = Path(run(environment, tmp_path, "python", "-c", code).stdout.strip())
    assert folder.is_relative_to(environment) and (folder / "grpo.py").is_file()


def test_a_mistake_is_one_line(environment, tmp_path):
    done = run(environment, tmp_path, "rrft", "--config=configs/grop.py")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: --config=configs/grop.py: no such file")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_demo_begins_in_an_empty_folder(environment, tmp_path):
    """It trains by the packaged config, with a reward of the folder."""
    (tmp_path / "own.py").write_text(
        "def short(completions, example):\n    return [1 / (1 + len(c)) for c in completions]"
    )
    done = run(
        environment,
        tmp_path,
        *("rrft", "--config=configs/grpo.py:paradigm=reason_rft_zero", "--workdir=runs/demo"),
        *SHORT,
        *("--config.grpo.steps=1", "--config.grpo.beta=0", "--config.eval.sampled=False"),
        "--config.grpo.rewards.own.short=1",
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs/demo/results.json").read_text())
    assert list(results) == ["start", "grpo"]


def required(distribution: str) -> set[str]:
    """The distributions that pip installs along with one, without its extras."""
    found, waiting = set(), [distribution]
    while waiting:
        for line in metadata.requires(waiting.pop()) or ():
            one = Requirement(line)
            name = canonicalize_name(one.name)
            if name in found or one.marker and not one.marker.evaluate({"extra": ""}):
                continue
            found.add(name)
            waiting.append(name)
    return found


# What may be absent, and the only files or folders that import it, when they are asked to.
OPTIONAL = {
    "matplotlib": "study/drawing.py",
    "tensorboard": "monitoring/trackers/tensorboard.py",
    "torch": "accelerator/",
    "trackio": "monitoring/trackers/trackio.py",
    "wandb": "monitoring/trackers/wandb.py",
}


def test_the_package_imports_nothing_but_itself_and_what_pip_installs_with_it():
    imported = {}  # module -> a file that imports it
    for file in ROOT.glob("rrft_jax/**/*.py"):
        text = file.read_text(encoding="utf-8")
        if "\nPAGE = " in text:  # writes a page of the documentation, from a clone alone
            continue
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            modules = {name.partition(".")[0] for name in names}
            place = file.relative_to(ROOT / "rrft_jax").as_posix()
            allowed = {name for name, own in OPTIONAL.items() if place.startswith(own)}
            imported |= dict.fromkeys(modules - allowed, file)
    for module in ("rrft_jax", *sys.stdlib_module_names):
        imported.pop(module, None)
    installed, from_ = required("rrft_jax"), metadata.packages_distributions()
    assert {
        module: file
        for module, file in imported.items()
        if not installed & {canonicalize_name(name) for name in from_.get(module, ())}
    } == {}
