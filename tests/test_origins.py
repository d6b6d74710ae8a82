"""Where a value comes from: each layer, a file of the user's, and the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.objectives import OBJECTIVES
from rrft_jax import command, fields, origins
from rrft_jax.settings import Config
from rrft_jax.training import objectives

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = [
    "--config=configs/grpo.py:task=structure_perception,objective=dapo",
    "--config.grpo.beta=0.01",
    "--config.seed",
    "3",
    "--config.data.system_prompt=two\nlines",
]


def read(*arguments: str) -> command.Command:
    return command.read([*arguments])


def own_file(file: Path, *lines: str) -> Path:
    """A config file of the user's, which changes the demo's config by these lines."""
    head = (
        "from configs import grpo",
        "def get_config(arg=''):",
        "  config = grpo.get_config(arg)",
    )
    file.write_text("\n".join([*head, *(f"  {line}" for line in lines), "  return config\n"]))
    return file


def test_each_value_has_the_origin_that_won():
    of = read(*ARGUMENTS, "--config.grpo.rewards.repetition=0.1").origins
    assert of.keys() == {found.key for found in fields.every(Config)}
    expected = {
        "seed": "command line",
        "grpo.beta": "command line",
        "grpo.rewards": "command line",
        "grpo.epsilon_high": "objective=dapo",
        "grpo.epochs": "task=structure_perception",
        "grpo.learning_rate": "configs/tiny_structure_perception.py",
        "sft.learning_rate": "model=tiny",
        "stages": "paradigm=reason_rft",
        "eval.passes": "default",
    }
    assert {key: of[key] for key in expected} == expected
    of = read("--config=configs/sft.py:model=2b").origins
    assert of["mesh.fsdp"] == "model=2b" and of["data.max_pixels"] == "configs/sft.py"
    assert not any(key.startswith("grpo.") for key in of)


def test_a_layer_that_returns_to_a_lower_value_is_the_origin():
    layers = [("model=x", {"seed": 1}), ("objective=y", {"seed": 0}), ("z", {"seed": 0})]
    made = origins.Layered({}, layers)
    assert origins.trace(Config(), made, "own.py", ())["seed"] == "objective=y"


def test_a_file_of_the_users_is_the_origin_of_what_it_assigns(tmp_path):
    own = own_file(tmp_path / "own.py", "config.grpo.advantages = 'rloo'")
    of = read(f"--config={own}:objective=dapo").origins
    assert of["grpo.advantages"] == str(own) and of["grpo.epsilon_high"] == "objective=dapo"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_stands_for_its_settings_and_the_command_line_wins(name):
    config, _, of, *_ = read(f"--config=configs/grpo.py:objective={name}", "--config.grpo.beta=0.3")
    objectives.check(config.grpo)
    values, expected = fields.flat(fields.plain(config)), dict(OBJECTIVES[name].fields)
    said = origins.expansion(config, of)
    expected.pop("grpo.beta", None)
    assert {key: values[key] for key in expected} == expected and values["grpo.beta"] == 0.3
    assert len(said) == bool(expected)
    for key, value in expected.items():
        assert said[0].startswith(f"objective={name}: ")
        assert f"--config.{key}={origins.shown(value)}" in said[0].split()


@pytest.mark.parametrize("name", sorted(set(OBJECTIVES) - {"grpo"}))
def test_an_objective_changes_what_it_names(name):
    """A field with the value of the default would be no part of the method."""
    defaults = {found.key: found.default for found in fields.every(Config)}
    assert all(defaults[key] != value for key, value in OBJECTIVES[name].fields.items())


@pytest.mark.parametrize("model", ["tiny", "2b"])
def test_the_expansion_is_what_the_command_line_takes(model):
    config, _, of, *_ = read(f"--config=configs/grpo.py:model={model},objective=gspo")
    [line] = origins.expansion(config, of)
    again, _ = command.parse([f"--config=configs/grpo.py:model={model}", *line.split()[1:]])
    assert again == config


def test_the_list_has_a_line_for_each_field_and_ends_the_program(capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        command.parse([*ARGUMENTS, "--print_config", f"--workdir={tmp_path / 'run'}"])
    out, err = capsys.readouterr()
    head, *lines = out.splitlines()
    assert end.value.code == 0 and err == "" and not (tmp_path / "run").exists()
    assert head.split() == ["field", "value", "from", "meaning"]
    described = {found.key: found for found in fields.every(Config)}
    assert [line.split()[0] for line in lines] == list(described)
    for line in lines:
        assert line.endswith(described[line.split()[0]].meaning)
    [line] = [line for line in lines if line.startswith("grpo.epsilon_high ")]
    assert line.split()[1:3] == ["0.28", "objective=dapo"]
    assert r"two\nlines  " in out
    short = [line for line in lines if not line.startswith("custom.instruction")]
    columns = {line.index("  default  ") for line in short if "  default  " in line}
    assert len(columns) == 1  # aligned


def test_the_list_needs_no_jax():
    program = (
        "import contextlib, sys\n"
        "from rrft_jax.main import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--config=configs/grpo.py:objective=dapo', '--print_config'])\n"
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert done.returncode == 0 and b"objective=dapo" in done.stdout


TUNED = {"accuracy": 1.0, "format": {"weight": 1.0, "empty_thought": True}}
PLAIN = {"accuracy": 1.0, "format": 1.0}


@pytest.mark.parametrize(
    "arguments, dropout, rewards",
    [
        ([""], 0.5, TUNED),
        (["", "--config.data.path=mine"], 0.0, PLAIN),
        (["", "--config.data.path", "mine"], 0.0, PLAIN),
        (["", "--config.data.source=tfds:mine"], 0.0, PLAIN),
        (["", "--config.data.mixture=mine.yaml"], 0.0, PLAIN),
        ([":task=custom"], 0.0, PLAIN),
        (["", "--config.data.path=mine", "--config.data.thought_dropout=0.5"], 0.5, PLAIN),
        (["", "--config.data.path=a", "--config.grpo.rewards.tags=2"], 0.0, PLAIN | {"tags": 2}),
        (["", "--config.grpo.rewards.tags=2"], 0.5, TUNED | {"tags": 2}),
    ],
)
def test_the_demos_own_settings_are_left_with_other_data(arguments, dropout, rewards):
    config, _, of, *_ = read(f"--config=configs/grpo.py{arguments[0]}", *arguments[1:])
    assert (config.data.thought_dropout, config.grpo.rewards) == (dropout, rewards)
    if dropout == 0:
        assert of["data.thought_dropout"] == "default"
        assert of["grpo.rewards"].startswith(("task=", "command line"))


def test_a_run_that_began_with_the_demos_settings_keeps_them(tmp_path):
    begun, own = tmp_path / "begun", tmp_path / "own"
    arguments = ["--config.data.path=mine", "--config.grpo.rewards.tags=2"]
    for folder, dropout, rewards in ((begun, 0.5, TUNED), (own, 0.5, PLAIN)):
        folder.mkdir()
        values = {"data": {"thought_dropout": dropout}, "grpo": {"rewards": rewards | {"tags": 2}}}
        (folder / "config.json").write_text(json.dumps(values))
        config = read(*arguments, f"--workdir={folder}").config
        assert config.grpo.rewards == rewards | {"tags": 2}
        assert config.data.thought_dropout == (0.5 if rewards is TUNED else 0.0)


def test_what_a_file_of_the_users_assigns_is_kept_with_other_data(tmp_path):
    lines = ("config.data.path = 'mine'", "config.data.thought_dropout = 0.25")
    own = own_file(tmp_path / "own.py", *lines)
    config = read(f"--config={own}").config
    assert config.data.thought_dropout == 0.25 and config.grpo.rewards == PLAIN


def test_settings_of_the_demo_that_meet_other_data_are_said_in_one_line():
    def said(*arguments):
        config, _, of, *_ = read(*arguments)
        return origins.of_demo(config, of)

    assert said() == said("--config=configs/grpo.py:model=2b", "--config.data.path=mine") == []
    [line] = said("--config.data.path=mine", "--config.grpo.steps=7")
    assert "data: sampling.temperature=1.0" in line and " sft.steps=400 " in line
    assert "grpo.steps" not in line  # the user's own choice
    [line] = said("--config=configs/grpo.py:paradigm=reason_rft_zero", "--config.data.path=mine")
    assert "data.system_prompt=" in line and "sft." not in line
