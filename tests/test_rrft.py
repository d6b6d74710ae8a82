"""The command `rrft`: every subcommand is there, gets its arguments, and shows its own help."""

import os
import subprocess
import sys
import types
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import rrft_jax
from rrft_jax import __main__ as rrft


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """The command changes sys.argv and sys.path, which other tests see too."""
    monkeypatch.setattr(sys, "argv", ["rrft"])
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def calls(monkeypatch):
    """The (module, arguments) of each subcommand that would run."""
    made = []

    def module(name):
        def main(argv):
            return made.append((name, argv)) or 0

        return types.SimpleNamespace(main=main, evaluate=main)

    monkeypatch.setattr(rrft.importlib, "import_module", module)
    return made


@pytest.mark.parametrize("name", rrft.COMMANDS)
def test_every_subcommand_describes_itself_by_its_name(name, capsys):
    with pytest.raises(SystemExit) as ended:
        rrft.main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: rrft {name} ")


def test_help_lists_every_subcommand_on_a_line(capsys):
    for argv in (["--help"], ["-h"], []):
        assert rrft.main(argv) == 0
        lines = capsys.readouterr().out.splitlines()
        for name, command in rrft.COMMANDS.items():
            assert [line.split(maxsplit=1) for line in lines].count([name, command.summary]) == 1
        assert max(map(len, lines)) <= 80


def test_the_version(capsys):
    assert rrft.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rrft {rrft_jax.__version__}\n"


@pytest.mark.parametrize(
    "typed, expected",
    [
        (["--config=a.py", "--workdir=b"], ("rrft_jax.main", ["--config=a.py", "--workdir=b"])),
        (["train", "--config=a.py"], ("rrft_jax.main", ["--config=a.py"])),
        (["train"], ("rrft_jax.main", [])),
        (["eval"], ("rrft_jax.main", ["--config=configs/eval.py"])),
        (["compare", "a", "b"], ("rrft_jax.evaluation.compare", ["a", "b"])),
    ],
)
def test_arguments_arrive(typed, expected, calls):
    assert rrft.main(typed) == 0
    assert calls == [expected]


def test_eval_takes_another_choice_of_its_config():
    from rrft_jax import command

    arguments = [*rrft.COMMANDS["eval"].first, "--config=configs/eval.py:model=2b"]
    assert command.parse(arguments)[0].model.name == "2b"


@pytest.mark.parametrize("file, stages", [("grpo", "sft, grpo"), ("sft", "sft")])
def test_eval_never_trains(file, stages, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert rrft.main(["eval", f"--config=configs/{file}.py"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: this config trains ({stages}), and eval only evaluates: give ")
    assert not any(tmp_path.iterdir())


def test_an_unknown_subcommand_is_one_line(capsys, calls):
    assert rrft.main(["trian"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: trian: did you mean train? expected one of train, eval, ")
    assert said.out == "" and said.err.count("\n") == 1 and not calls


def test_files_of_the_current_folder_are_imported_after_all_others(tmp_path, monkeypatch, calls):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    for name in ("own_reward_of_this_test", "numpy"):
        (tmp_path / f"{name}.py").touch()
    rrft.main(["train"])
    rrft.main(["train"])
    found = {name: PathFinder.find_spec(name) for name in ("own_reward_of_this_test", "numpy")}
    assert Path(found["own_reward_of_this_test"].origin).parent == tmp_path
    assert Path(found["numpy"].origin).parent != tmp_path
    assert sys.path.count(os.getcwd()) == 1


def test_as_a_module():
    """`python -m rrft_jax` is the same command, and its exit code is that of the subcommand."""
    command = [sys.executable, "-m", "rrft_jax", "--config=configs/grpo.py", "--config.sed=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "did you mean seed?" in done.stderr
