"""Every command and every block of the documentation runs, or is checked as far as one can here.

A command is short enough to be run, maybe with smaller numbers; or its arguments go through the
parser that would read them, and the files that it names must exist. One that no rule knows fails.
"""

import argparse
import ast
import functools
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rrft_jax import __main__ as rrft
from rrft_jax import command, main
from rrft_jax.data import drawn, read_examples
from rrft_jax.data.prompts import read_prompts
from rrft_jax.data.sources import Data
from rrft_jax.errors import UserError
from tests.docs.pages import EXAMPLE, ROOT, blocks, commands, spans

# Of the evaluation that gives the documented run its predictions.
SMALL = (
    "--config.mesh.data=1",
    "--config.eval.samples=2",
    "--config.eval.batch_size=2",
    "--config.eval.max_new_tokens=4",
    "--config.eval.sampled=False",
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with small things of all the names that the documentation gives to large ones."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("rrft_jax", "configs", "launch", "tests", "findings", "constraints.txt", ".ci"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    for file in ("scene.png", "a.png"):
        drawn.DrawnSource("visual_counting", "id", 0, 0, 1, 112)[0].images[0].save(folder / file)
    for block in blocks("python"):  # a file that its first line names, outside of the package
        if name := re.match(r"# (mypackage/\S+\.py)\n", block.text):
            (folder / name[1]).parent.mkdir(exist_ok=True)
            (folder / name[1]).write_text(block.text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        run_module("rrft_jax.data.drawn", *drawn_set("Reason-RFT-CoT-Dataset", "visual_counting"))
        run_module("rrft_jax.data.tfds_builder", "--task=visual_counting", *FEW, "--out=scenes")
        arguments = ["--config=configs/eval.py", "--workdir=runs/demo", *SMALL]
        assert main.main(arguments) == 0
        stage = folder / "runs/demo/evaluations/sft"
        stage.mkdir(parents=True, exist_ok=True)
        (folder / "ours").mkdir()
        for file in (folder / "runs/demo").glob("predictions-*.jsonl"):
            for other in (stage, folder / "ours"):
                (other / file.name).write_bytes(file.read_bytes())
        rows = [json.loads(line) for line in open("ours/predictions-id.jsonl", encoding="utf-8")]
        shutil.copytree(folder / "runs/demo", folder / "runs/branch")
        (folder / "theirs.json").write_text(json.dumps(rows))
        public = [{"pred": "<answer> B </answer>", "solution": "<answer> B </answer>"}]
        (folder / "results.json").write_text(json.dumps(public))
        yield folder


FEW = ("--train=2", "--test=1", "--size=56")  # drawn samples


def drawn_set(folder: str, task: str) -> tuple[str, ...]:
    return (f"--task={task}", f"--out={folder}", *FEW)


@pytest.fixture(autouse=True)
def at_the_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.syspath_prepend(desk)


# Modules that are run whole, and the arguments that make them small.
WHOLE = {
    "rrft_jax.data.show": ("--out=shown",),
    "rrft_jax.chat": (),
    "rrft_jax.data.drawn": FEW,
    "rrft_jax.data.tfds_builder": (*FEW, "--out=built"),
    "rrft_jax.evaluation.rescore": (),
    "rrft_jax.evaluation.compare": (),
    "rrft_jax.report": (),
}
# Modules whose arguments are read by their own parser, and that go no further.
PARSED = ("rrft_jax.bench", "rrft_jax.export")
# Modules that write a page of the documentation, which must be as they would write it.
GENERATING = ("rrft_jax.training.algorithms", "rrft_jax.settings_page")


class Parsed(Exception):
    """The arguments are read, and nothing else is to happen."""


def run_module(name: str, *arguments: str) -> None:
    """`python -m NAME ARGUMENTS`, in this process."""
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO())  # of a conversation that ends at once
        assert not module.main(list(arguments))


def parse_module(name: str, *arguments: str) -> None:
    """Reads the arguments as the module does. A mistake raises what the module says of it."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
        patch.setattr(sys, "argv", [name, *arguments])
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{name}.__main__")
        with pytest.raises(Parsed):
            module.main()


def a_run(*arguments: str) -> None:
    """Arguments of `rrft_jax.main`: each field exists, and what is here of the data is read."""
    _, rest = command.processes(arguments)
    config = command.read([word for word in rest if word != "--print_config"]).config
    if config.data.source or not config.data.path or Path(config.data.path).exists():
        Data.open(config)


def a_module(name: str, *arguments: str) -> None:
    if name in WHOLE:
        run_module(name, *arguments, *WHOLE[name])
        shutil.rmtree("built", ignore_errors=True)
    elif name in PARSED:
        parse_module(name, *arguments)
    elif name == "rrft_jax.main":
        a_run(*arguments)
    elif name == "rrft_jax.plan":
        from rrft_jax.plan import __main__ as plan

        config, args = plan.read(arguments)
        assert config.stages and plan.model_sizes(config)
        if args.topology:
            try:
                assert plan.find_devices(args.topology)
            except UserError as error:  # without the plug-in the name has been read
                assert "; pip install 'rrft_jax[plan-gpu]'" in str(error)
    elif name == "rrft_jax.pretrain":
        from absl import flags

        importlib.import_module("rrft_jax.pretrain.__main__")
        for argument in arguments:
            flag, _, value = argument.removeprefix("--").partition("=")
            flags.FLAGS[flag].parser.parse(value)
    elif name == "ruff":
        checked = {"check": "--exit-zero", "format": "--check"}[arguments[0]]
        done = subprocess.run(
            [sys.executable, "-m", name, *arguments, checked, "--quiet"], cwd=ROOT
        )
        assert done.returncode in (0, 1)  # 2 is a mistake in the arguments
    elif name == "build":
        assert not arguments and '"build' in (ROOT / "setup.py").read_text()
    elif name == "rrft_jax.study":
        from rrft_jax.study.__main__ import read

        args, cells = read(arguments)
        assert args.report_only or cells
    elif name in GENERATING:
        module = importlib.import_module(name)
        assert module.PAGE.read_text(encoding="utf-8") == module.page()
    else:
        unknown(name, *arguments)


def a_script(name: str, *arguments: str) -> None:
    """A script of the project: Bash can read it, and its arguments make sense to it."""
    file = ROOT / name
    assert os.access(file, os.X_OK), f"{name} can't be executed"
    subprocess.run(["bash", "-n", file], check=True)
    if name == "./launch/demo.sh":
        words = shlex.split(file.read_text().splitlines()[-1])
        a_run(*words[words.index("rrft_jax.main") + 1 : -1], *arguments)
    elif name == "./launch/test.sh":
        for argument in arguments:
            assert argument in ("-x", "-m", "not slow") or (ROOT / argument).exists(), argument
    elif name == "./launch/accelerator_check.sh":
        parse_module("rrft_jax.accelerator", *arguments)
    elif name == "./launch/bench_peers.sh":
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(ROOT / "launch/peers")
            compare = importlib.import_module("compare")
        assert not arguments or compare.read(arguments)  # without, the text speaks of the script
    elif name == "./launch/tpu_vm.sh":
        on_a_tpu(file, *arguments)
    else:
        assert name == ".ci/run" and not arguments


def on_a_tpu(file: Path, *arguments: str) -> None:
    """The script accepts what it can judge before it looks for gcloud; a run's config is read."""
    if arguments[0] == "run":
        a_run(*arguments[2:])
    tools = Path("tools")
    tools.mkdir(exist_ok=True)
    for tool in ("bash", "dirname", "env", "sed"):
        if not (tools / tool).exists():
            (tools / tool).symlink_to(subprocess.check_output(["which", tool], text=True).strip())
    environment = {"PATH": str(tools.resolve()), "HOME": str(Path().resolve())}
    done = subprocess.run([file, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 or "gcloud isn't installed" in done.stderr, done.stderr
    for argument in arguments[2:]:
        option = argument.partition("=")[0]
        assert arguments[0] == "run" or option in file.read_text(), option


def with_pip(*arguments: str) -> None:
    """Of this project, with extras that it has."""
    assert arguments[0] == "install"
    rest = list(arguments[1:])
    if "-c" in rest:
        at = rest.index("-c")
        assert Path(rest[at + 1]).exists()
        del rest[at : at + 2]
    if rest[0] == "-e":
        del rest[0]
    assert len(rest) == 1
    extra = re.fullmatch(r"\.(?:\[([\w-]+)\])?", rest[0])
    assert not extra[1] or f'"{extra[1]}": [' in (ROOT / "setup.py").read_text()


def with_rrft(*arguments: str) -> None:
    """A subcommand: its module's arguments; or a word about the command itself."""
    name, *rest = arguments
    if "COMMAND" in arguments or arguments in (("--help",), ("--version",)):
        return
    if name.startswith("-"):
        name, rest = "train", arguments
    if rest:  # without, the text speaks of the subcommand
        subcommand = rrft.COMMANDS[name]
        module = subcommand.module.removesuffix(".__main__")
        a_module(module, *subcommand.first, *rest)
    assert name in rrft.COMMANDS


def with_docker(verb: str, *arguments: str) -> None:
    """It builds a Dockerfile of ours, or runs the image that one is built to with our arguments."""
    images = {
        f"rrft_jax:{file.name.partition('.')[0]}" for file in ROOT.glob("launch/*.Dockerfile")
    }
    if verb == "build":
        option, file, tag, image, context = arguments
        assert (option, tag, context) == ("-f", "-t", ".") and Path(file).exists()
        assert file == f"launch/{image.removeprefix('rrft_jax:')}.Dockerfile"
    else:
        [image] = images & {*arguments}
        assert verb == "run"
        with_rrft(*arguments[arguments.index(image) + 1 :])


def with_slurm(*arguments: str) -> None:
    """Options of sbatch that the script sets too, and a run."""
    at = next(i for i, x in enumerate(arguments) if not x.startswith("-"))
    script = (ROOT / arguments[at]).read_text()
    subprocess.run(["bash", "-n", ROOT / arguments[at]], check=True)
    for option in arguments[:at]:
        assert f"#SBATCH {option.partition('=')[0]}=" in script, option
    a_run(*arguments[at + 1 :])


def with_kubectl(verb: str, *arguments: str) -> None:
    """The manifest is there, and the names are its own."""
    name = yaml.safe_load((ROOT / "launch/gke.yaml").read_text())["metadata"]["name"]
    if verb == "apply":
        assert arguments == ("-f", "launch/gke.yaml")
    elif verb == "logs":
        assert f"jobset.sigs.k8s.io/jobset-name={name}" in arguments
    else:
        assert (verb, *arguments) == ("delete", "jobset", name)


def with_bash(script: str) -> None:
    subprocess.run(["bash", "-n", script], check=True)


def unknown(*words: str) -> None:
    pytest.fail(f"no way to run this is known: {shlex.join(words)}; add a rule that checks it")


RULES: dict[str, Callable] = {
    "pip": with_pip,
    "sbatch": with_slurm,
    "kubectl": with_kubectl,
    "bash": with_bash,
    "rrft": with_rrft,
    "docker": with_docker,
}


@pytest.mark.parametrize("text", [text for text in commands() if EXAMPLE not in text])
def test_a_command(text):
    words = shlex.split(text)
    while re.match(r"[A-Z_]+=", words[0]):  # a variable that a launcher reads
        variable = words.pop(0).partition("=")[0]
        assert any(f"${{{variable}:" in file.read_text() for file in ROOT.glob("launch/*.sh"))
    program, *rest = words
    if program.endswith("python") and rest[0] == "-m":
        a_module(*rest[1:])
    elif program.startswith(("./launch/", ".ci/")):
        a_script(program, *rest)
    else:
        RULES.get(program, functools.partial(unknown, program))(*rest)


def test_an_unknown_command_fails():
    with pytest.raises(pytest.fail.Exception, match="no way to run this is known: curl x"):
        test_a_command("curl x")
    with pytest.raises(pytest.fail.Exception, match="no way to run this is known"):
        test_a_command("python -m rrft_jax.nothing")


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.page)
def test_a_python_block(block):
    exec(compile(block.text, block.page, "exec"), {"__name__": "block"})


OPTION = re.compile(r"(--config\.)?(?:model|data|sampling|eval|mesh|sft|grpo)\.\w+[\w.]*(=.*)?")
FIELDS = [
    (page, word)
    for page, span in spans()
    for word in span.split()
    if all(map(OPTION.fullmatch, span.split()))
]


@pytest.mark.parametrize("page, span", FIELDS, ids=[span for _, span in FIELDS])
def test_a_field_of_the_config(page, span):
    key, equals, value = span.removeprefix("--config.").partition("=")
    config, _ = command.parse(["--config=configs/grpo.py"])
    if equals and not key.startswith("grpo.rewards"):
        files = "--config.data.path=mine"  # without them, some fields of data have no effect
        command.parse(["--config=configs/grpo.py", files, f"--config.{key}={value}"])
    elif equals:
        a_run("--config=configs/grpo.py", f"--config.{key}={value}")
    else:
        functools.reduce(getattr, key.split("."), config)


OPTIONS = [(page, span) for page, span in spans() if re.fullmatch(r"--[a-z][\w-]*(=.*)?", span)]


@pytest.mark.parametrize("page, span", OPTIONS, ids=[span for _, span in OPTIONS])
def test_an_option(page, span):
    name = span.partition("=")[0].removeprefix("--")
    files = [*ROOT.glob("rrft_jax/**/*.py"), *ROOT.glob("launch/*")]
    said = "".join(file.read_text() for file in files if file.is_file())
    assert re.search(rf'--{name}\b|"{name}"', said)


def test_the_rows_of_the_documentation_are_read(desk):
    [block] = [block for block in blocks("json") if block.page == "docs/data.md"]
    rows, rest = [], block.text.strip()
    while rest:
        row, end = json.JSONDecoder().raw_decode(rest)
        rows.append(row)
        rest = rest[end:].strip()
    (desk / "rows.json").write_text(json.dumps(rows))
    examples = read_examples("rows.json", "visual_counting", "train")
    assert [example.answer for example in examples] == ["2"] * len(rows)
    assert [example.problem for example in examples] == ["How many?"] * len(rows)
    assert [os.path.basename(*example.images) for example in examples] == ["a.png"] * len(rows)
    assert examples[0].cot == examples[1].cot == "One, two."


def test_the_mixture_of_the_documentation_is_read(desk):
    [text] = [block.text for block in blocks("yaml") if block.page == "docs/data.md"]
    (desk / "mixture.yaml").write_text(text)
    [words] = [block.text for block in blocks("yaml") if block.page == "docs/prompts.md"]
    (desk / "own_words.yaml").write_text(words)
    assert read_prompts("visual_counting", "reason_rft", file="own_words.yaml").replaced
    file = desk / "Reason-RFT-CoT-Dataset/train_jsons/AI2D-train.json"
    row = {"image": str(desk / "a.png"), "problem": "x?", "answer": "3", "cot": "1 + 2"}
    file.write_text(json.dumps([row]))
    config, _ = command.parse(["--config=configs/grpo.py", "--config.data.mixture=mixture.yaml"])
    data = Data.open(config)
    assert [source.weight for source in data.training["grpo"]] == [3, 1, 2, 1]


@pytest.mark.parametrize("block", blocks(""), ids=lambda block: block.page)
def test_a_plain_block_is_no_command(block):
    """A command in a block without a language would be run by nothing."""
    assert not re.search(
        r"^\s*(python|pip|rrft|docker|\./|bash|sbatch|kubectl|git) ", block.text, re.MULTILINE
    )


def test_python_parses_everywhere():
    assert all(ast.parse(block.text) for block in blocks("python"))
