"""The command line: overrides arrive, mistakes end in one line that helps."""

import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rrft_jax import command, main
from rrft_jax.errors import UserError
from rrft_jax.renamed import RENAMED

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GRPO = f"--config={CONFIGS / 'grpo.py'}"


def test_overrides_have_the_config_s_types():
    config, workdir = command.parse(
        [
            f"{GRPO}:model=2b,paradigm=reason_rft_zero",
            "--config.model.path=3",
            "--config.grpo.num_generations=4",
            "--config.grpo.learning_rate=1",
            "--config.eval.sampled=true",
            "--config.eval.tasks=visual_counting,structure_perception",
            "--config.eval.passes=2",
            "--config.trackers=wandb,tensorboard",
            "--config.sampling.top_k",
            "7",
            "--workdir=somewhere/else",
        ]
    )
    assert config.model.path == "3"
    assert config.grpo.num_generations == 4
    assert config.grpo.learning_rate == 1.0 and isinstance(config.grpo.learning_rate, float)
    assert config.eval.sampled is True and config.eval.passes == 2
    assert config.eval.tasks == ("visual_counting", "structure_perception")
    assert config.trackers == ("wandb", "tensorboard")
    assert config.sampling.top_k == 7
    assert config.stages == ("grpo",)
    assert workdir == Path("somewhere/else")


def test_defaults_are_the_demo(monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    config, workdir = command.parse([])
    assert config.model.name == "tiny" and config.stages == ("sft", "grpo")
    assert workdir == Path("runs/grpo-tiny-visual_counting-reason_rft")


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config, workdir = command.parse(
        [
            GRPO,
            "--config.model.path=~/base",
            "--config.data.path=~/data",
            "--config.data.prompts=~/own.yaml",
            "--config.data.mixture=~/mix.yaml",
            "--workdir=~/runs/a",
        ]
    )
    assert config.data.prompts == "/home/someone/own.yaml"
    assert config.data.mixture == "/home/someone/mix.yaml"
    assert config.model.path == "/home/someone/base" and config.data.path == "/home/someone/data"
    assert workdir == Path("/home/someone/runs/a")


def a_config(file: Path, imports: str, source: str, seed: int | None = None) -> None:
    """Writes a config file that takes the config of another one."""
    file.parent.mkdir(exist_ok=True)
    change = "" if seed is None else f"  config.seed = {seed}\n"
    file.write_text(
        f"{imports}\n\ndef get_config(arg=''):\n"
        f"  config = {source}.get_config(arg)\n{change}  return config\n"
    )


def test_a_config_from_anywhere_imports_the_packaged_ones(monkeypatch, tmp_path):
    a_config(tmp_path / "own.py", "from configs import sft", "sft")
    monkeypatch.chdir(tmp_path)
    config, _ = command.parse(["--config", "own.py:paradigm=ans_sft", "--config.stages=sft"])
    assert config.paradigm == "ans_sft" and config.stages == ("sft",)


def test_a_file_of_the_current_folder_comes_before_the_packaged_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config, workdir = command.parse(["--config=configs/sft.py"])
    assert config.stages == ("sft",) and workdir.name.startswith("sft-tiny-")
    a_config(tmp_path / "configs/sft.py", "from configs import grpo", "grpo", seed=5)
    config, _ = command.parse(["--config=configs/sft.py"])
    assert config.seed == 5 and config.stages == ("sft", "grpo")


def test_neighbours_come_before_the_packaged_configs_from_any_folder(monkeypatch, tmp_path):
    folder = tmp_path / "configs"
    a_config(folder / "sft.py", "from configs import grpo", "grpo", seed=5)
    a_config(folder / "mine.py", "import configs.sft\nfrom configs import sft", "sft")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert command.parse([f"--config={folder / 'mine.py'}"])[0].seed == 5
    assert command.parse(["--config=configs/sft.py"])[0].stages == ("sft",)  # the packaged one


def test_another_project_s_configs_are_not_in_the_way(monkeypatch, tmp_path):
    (tmp_path / "configs").mkdir()
    for name in ("__init__", "base", "tiny_visual_counting"):
        (tmp_path / f"configs/{name}.py").write_text("other = 1\n")
    (tmp_path / "own").mkdir()
    a_config(tmp_path / "own/run.py", "from configs import grpo", "grpo", seed=2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        monkeypatch.delitem(sys.modules, name)
    theirs = importlib.import_module("configs.base")
    assert command.parse(["--config=configs/grpo.py"])[0].stages == ("sft", "grpo")
    assert command.parse(["--config=own/run.py"])[0].seed == 2
    assert sys.modules["configs.base"] is theirs and theirs.other == 1
    for name in [name for name in sys.modules if name.partition(".")[0] == "configs"]:
        del sys.modules[name]  # for good: what was there before comes back by itself


def test_a_config_that_can_t_import_says_what_it_finds(tmp_path, capsys):
    a_config(tmp_path / "own.py", "from configs import grop", "grop")
    assert main.main([f"--config={tmp_path / 'own.py'}"]) == 1
    err = capsys.readouterr().err
    assert "cannot import name 'grop' from 'configs'" in err and err.count("\n") == 1
    assert f"those of {CONFIGS}" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config.sed=1"], "unknown config key sed: did you mean seed? config has "),
        (["--config.grpo.num_generation=1"], "did you mean num_generations? config.grpo has "),
        *(
            ([f"--config.{old}=1"], f"config key {old} is now called {new}: set that one")
            for old, new in RENAMED.items()
        ),
        (["--config.sampling.zzz=1"], "config.sampling has cache_chunk, max_new_tokens, "),
        (["--config.seed.x=1"], "unknown config key seed.x: config.seed is a single value"),
        (["--config.grpo=1"], "config key grpo is a section: set one of "),
        (["--config.seed=x"], "--config.seed=x: expected an integer, such as 0"),
        (["--config.seed=2.5"], "--config.seed=2.5: expected an integer, such as 0"),
        (["--config.grpo.beta=high"], "--config.grpo.beta=high: expected a number, such as 0.04"),
        (["--config.eval.sampled=3"], "--config.eval.sampled=3: expected true or false"),
        (["--config.seed"], "seed"),
        (["--seed=1"], "unknown argument --seed"),
        (["--conf=x.py"], "unknown argument --conf"),
        (["more"], "unknown argument 'more'"),
        (["--workdir"], "--workdir: expected one argument"),
        (["--config.task=visual_counting"], "--config=FILE:task=CHOICE"),
        (["--config.model.name=2b"], "--config=FILE:model=CHOICE"),
        (["--config.model.remat=half"], "--config.model.remat=half: expected one of none, full"),
        (["--config.stages=eval"], "expected of sft, grpo"),
        (["--config.stages=('grpo','sft')"], "in this order"),
        (["--config.trackers=wandb,mlflow"], "expected of tensorboard, wandb, trackio, each once"),
        (["--config.profile=12"], "--config.profile=12: expected FROM:TO or STAGE@FROM:TO"),
        (["--config.sampling.top_p=0"], "--config.sampling.top_p=0.0: expected more than 0"),
        (["--config.grpo.learning_rate=nan"], "expected 0 or more"),
        (["--config.grpo.num_generations=1"], "expected 2 or more"),
        (["--config.data.buckets=0"], "--config.data.buckets=0: expected 1 or more"),
        (["--config.data.workers=-1"], "--config.data.workers=-1: expected 0 or more"),
        (["--config.mesh.fsdp=0"], "expected 1 or more"),
        (["--config.grpo.micro_batches=3"], "expected a multiple of grpo.micro_batches=3"),
        (["--config.grpo.mini_batches=3"], "expected a multiple of grpo.mini_batches=3"),
        (["--config.grpo.kl=k4"], "--config.grpo.kl=k4: expected one of k1, k2, k3"),
        (["--config.grpo.importance_cap=0"], "importance_cap=0.0: expected more than 0"),
        (["--config.sampling.cache_chunk=0"], "cache_chunk=0: expected 1 or more"),
        (["--config.seed=-1"], "--config.seed=-1: expected 0 or more"),
        (["--config.sft.b2=1"], "--config.sft.b2=1.0: expected 0 or more, less than 1"),
        (["--config.grpo.eps=0"], "--config.grpo.eps=0.0: expected more than 0"),
        (["--config.eval.tasks=chess"], "choose one of visual_counting, structure_perception, "),
        (["--config.eval.passes=0"], "--config.eval.passes=0: expected 1 or more"),
        (["--config.eval.passes=2"], "at eval.temperature=0 all completions of a sample are the"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, capsys):
    assert main.main([GRPO, *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    "config, message",
    [
        ("nowhere.py", "nowhere.py: no such file"),
        (str(CONFIGS), "expected a Python file"),
        (f"{CONFIGS / 'base.py'}", "expected the file to define get_config"),
        (f"{CONFIGS / 'grpo.py'}:model=9b", "model is one of tiny, 2b, 7b"),
        (f"{CONFIGS / 'eval.py'}", "this config has no section sft"),
    ],
)
def test_config_files(config, message):
    with pytest.raises(UserError, match=message):
        command.parse([f"--config={config}", "--config.stages=sft"])


def test_a_config_file_that_is_no_python_is_named_with_its_line(tmp_path, capsys):
    (tmp_path / "own.py").write_text("def get_config(arg):\n  return (\n")
    assert main.main([f"--config={tmp_path / 'own.py'}"]) == 1
    err = capsys.readouterr().err
    assert "own.py, line 2): '(' was never closed" in err and err.count("\n") == 1


OWN = "from configs import grpo\ndef get_config(arg):\n  config = grpo.get_config(arg)\n"


def test_a_config_file_assigns_mappings_whose_names_have_dots(tmp_path):
    (tmp_path / "own.py").write_text(
        f"{OWN}  config.grpo.rewards = {{'json.dumps': {{'weight': 2.0}}}}\n"
        "  config.eval.rewards = {'json.dumps': 1, 'format': {'weight': 1}, 'tags': 1}\n"
        "  config.data.columns = {'problem': 'a.b'}\n  return config\n"
    )
    given = ["--config.data.path=d"]
    given += [f"--config.eval.rewards.{name}=2.5" for name in ("format", "tags", "accuracy")]
    config, _ = command.parse([f"--config={tmp_path / 'own.py'}", *given])
    assert config.grpo.rewards == {"json.dumps": {"weight": 2.0}}
    own = {"json.dumps": 1, "format": {"weight": 2.5}}
    assert config.eval.rewards == own | {"tags": 2.5, "accuracy": 2.5}
    assert config.data.columns == {"problem": "a.b"}


@pytest.mark.parametrize(
    "line, override, format_weight",
    [
        ('grpo.rewards = {"math.sqrt": {"weight": 2}, "format": 1}', [], 1),
        ('grpo.rewards["math.sqrt"] = {"weight": 2}', [], 1.0),
        ('grpo.rewards.format = {"weight": 3}\n  config.grpo.rewards["math.sqrt"] = 2', [], 3),
        ('grpo.rewards = {"math.sqrt": 2, "format": {"weight": 1}}', ["format=0.5"], 0.5),
        ('grpo.rewards["math.sqrt"], config.grpo.rewards.format = 2, 1', ["format=0.5"], 0.5),
        ('grpo.rewards.update({"math.sqrt": {"weight": 1}})', ["math.sqrt=2"], 1.0),
    ],
)
def test_rewards_of_a_config_file_are_plain_python(tmp_path, line, override, format_weight):
    (tmp_path / "own.py").write_text(f"{OWN}  config.{line}\n  return config\n")
    arguments = [f"--config.grpo.rewards.{term}" for term in override]
    config, _ = command.parse([f"--config={tmp_path / 'own.py'}:task=custom", *arguments])
    terms = {
        name: term if isinstance(term, float | int) else term["weight"]
        for name, term in config.grpo.rewards.items()
    }
    assert (terms["math.sqrt"], terms["format"]) == (2, format_weight)
    assert ("accuracy" in terms) == ("rewards = {" not in line)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            f"{OWN}  config.grpo.steps = '7'\n",
            "own.py: line 4: TypeError: Could not override field",
        ),
        (f"{OWN}  1 / 0\n", "own.py: line 4: ZeroDivisionError: division by zero"),
        ("nothing = here\n", "own.py: line 1: NameError: name 'here'"),
        ("def get_config():\n  pass\n", r"own.py: get_config\(arg\): TypeError: .* positional"),
        (f"{OWN}  return config.to_dict()\n", "get_config returned dict; expected a config, such"),
        (f"{OWN}  config.data.colums = 1\n  return config\n", "unknown config key data.colums"),
        (
            f"{OWN}  config['grpo.steps'] = 1\n  return config\n",
            "line 4: ValueError: .* dots in field names",
        ),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line(tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        command.parse([f"--config={tmp_path / 'own.py'}"])
    assert "\n" not in str(error.value)


def test_hands_over_to_the_recipe(monkeypatch, capsys):
    calls = []
    recipe = types.ModuleType("rrft_jax.recipe")
    recipe.run = lambda config, *rest: calls.append((config.seed, *rest))
    monkeypatch.setitem(sys.modules, "rrft_jax.recipe", recipe)
    monkeypatch.setattr("rrft_jax.recipe", recipe, raising=False)
    assert main.main([GRPO, "--config.seed=3", "--workdir=w"]) == 0
    assert main.main([GRPO, "--branch_from=runs/a:7", "--workdir=w"]) == 0
    assert calls == [(3, Path("w"), None), (0, Path("w"), "runs/a:7")]
    capsys.readouterr()  # a busy machine says what it waits for

    def fail(*arguments):
        raise UserError("w: no such folder")

    recipe.run = fail
    assert main.main([GRPO]) == 1
    assert capsys.readouterr().err == "error: w: no such folder\n"


def test_as_a_command():
    command = [sys.executable, "-m", "rrft_jax.main", GRPO, "--config.sed=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CONFIGS.parent)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "did you mean seed?" in done.stderr


@pytest.mark.parametrize("argument", ["--help", "--config.sed=1", "--config.data.buckets=0"])
def test_help_and_mistakes_come_before_jax_is_imported(argument):
    program = (
        "import contextlib, sys\n"
        "from rrft_jax.main import main\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    main([{argument!r}])\n"
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CONFIGS.parent)
    assert done.returncode == 0


def test_rewards_are_added_and_weighed_on_the_command_line():
    config, _ = command.parse(
        ["--config.grpo.rewards.repetition=0.1", "--config.grpo.rewards.math.fsum=2"]
        + ["--config.grpo.rewards.format=0.5"]
    )
    told = {"weight": 0.5, "empty_thought": True}  # the option stays
    expected = {"accuracy": 1.0, "format": told, "repetition": 0.1, "math.fsum": 2.0}
    assert config.grpo.rewards == expected
    with pytest.raises(UserError, match="grpo.rewards.format=much: expected a number"):
        command.parse(["--config.grpo.rewards.format=much"])
    with pytest.raises(UserError, match="grpo.rewards.luck: reward 'luck': expected one of"):
        command.parse(["--config.grpo.rewards.luck=1"])


def test_columns_are_mapped_on_the_command_line():
    config, _ = command.parse(
        ["--config.data.path=d"]
        + ["--config.data.columns.problem=caption", "--config.data.columns.answer=meta.label"]
    )
    assert config.data.columns == {"problem": "caption", "answer": "meta.label"}
    for argument in ("--config.data.columns.problem", "--config.data.columns.problem="):
        with pytest.raises(UserError, match="expected --config.data.columns.PART=COLUMN"):
            command.parse([argument])
    with pytest.raises(UserError, match="config key data.columns is a section: set one of its"):
        command.parse(["--config.data.columns=caption"])
