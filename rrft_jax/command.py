"""The command line of every command that takes `--config`, turned into a checked config.

A mistake is a UserError of one line, before anything is loaded or compiled.
"""

import argparse
import contextlib
import difflib
import importlib.util
import os
import re
import sys
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from rrft_jax import effects, json_files, origins
from rrft_jax.errors import UserError
from rrft_jax.fields import replaced
from rrft_jax.prog import prog
from rrft_jax.renamed import RENAMED
from rrft_jax.settings import Config, make

# Set before the libraries are imported, because they read these variables once. A variable that
# the user has set stays.
_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "2",  # hides XLA's messages about the machine
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # hides the advice to install torch
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",  # the loader has threads of its own
    "HF_HUB_OFFLINE": "1",  # checkpoints are folders, so no library needs the Hub
}

# An installed package has the configs inside, and a clone has them beside the package.
_INSTALLED = Path(__file__).resolve().parent / "packaged" / "configs"
CONFIGS = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[1] / "configs"


# The fields whose `~` is the home folder of the user.
_PATHS = (
    *("model.path", "model.adapter"),
    *("data.path", "data.image_root", "data.prompts", "data.mixture"),
)


def quieten() -> None:
    """Silence the libraries; call this before their first import."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def processes(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split a command line into the arguments on the processes of a run, and all others.

    Returns:
      (the keyword arguments of `parallel.distributed.initialize`, the other arguments).

    Raises:
      UserError: an argument on the processes is missing, or has an impossible value.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    for name, kind in _PROCESSES.items():
        parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS)
    known, rest = parser.parse_known_args(argv)
    told = vars(known)
    number, index = told.get("num_processes", 1), told.get("process_id", 0)
    several = {"coordinator", "num_processes", "process_id"} & told.keys()
    if several and several != {"num_processes"} and len(several) < 3 or number < 1:
        raise UserError(
            f"--{min(several)}: expected --coordinator=HOST:PORT --num_processes=N --process_id=I "
            "together, of N processes the I-th from 0 on; or --num_processes=1 alone"
        )
    if several == {"num_processes"} and number > 1 or not 0 <= index < number:
        raise UserError(
            f"--process_id={index} of --num_processes={number}: expected 0 to {number - 1}, and "
            "--coordinator=HOST:PORT of process 0"
        )
    if ":" not in told.get("coordinator", ":"):
        raise UserError(f"--coordinator={told['coordinator']}: expected HOST:PORT of process 0")
    if told.get("heartbeat_seconds", 1) < 1:
        raise UserError(f"--heartbeat_seconds={told['heartbeat_seconds']}: expected 1 or more")
    return told, rest


class Command(NamedTuple):
    """A command line that was read.

    Attributes:
      config: the checked settings.
      workdir: the run's folder.
      origins: the origin of each field's value, by its key.
      branch_from: the checkpoint that a new run begins at.
      dry_run: whether the run is only to be checked and told.
    """

    config: Config
    workdir: Path
    origins: dict[str, str]
    branch_from: str | None
    dry_run: bool


def parse(argv: Sequence[str]) -> tuple[Config, Path]:
    """Return the checked settings of a command line, and the run's folder; see `read`.

    Raises:
      UserError: as in `read`, or an argument that only a run has.
    """
    found = read(argv)
    for name in ("branch_from", "dry_run"):
        if getattr(found, name):
            raise UserError(f"--{name}: only a run takes it")
    return found.config, found.workdir


def read(argv: Sequence[str]) -> Command:
    """Read a command line; `--print_config` prints every field and ends the program.

    Raises:
      UserError: an unknown argument, config key or choice, a value of the wrong type or size, or a
        value without effect.
    """
    parser = Parser(
        prog=prog("rrft_jax.main"),
        description="Fine-tunes Qwen-VL models for visual reasoning.",
        epilog="--config.KEY=VALUE overrides a field of the config. Where several processes don't "
        "find each other by themselves: --coordinator=HOST:PORT --num_processes=N --process_id=I; "
        "--heartbeat_seconds=S is how long one may be silent before the others end.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        default="configs/grpo.py",
        metavar="FILE[:NAME=CHOICE,...]",
        help="a config file, or else the packaged one of that name, and its argument; default: "
        "%(default)s, the demo, or configs/eval.py if rrft eval runs",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        help="the run's folder; default: runs/<config>-<model>-<task>-<paradigm>",
    )
    parser.add_argument(
        "--branch_from",
        metavar="RUN[:[STAGE@]STEP]",
        help="begin a new run at a checkpoint of another one, its newest without a step",
    )
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="print every field, its value, where that comes from and what it means; then end",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the run, print its data, shapes, memory and first prompts; then end",
    )
    known, overrides = parser.parse_known_args(argv)
    config, _ = load(known.config)
    file = known.config.partition(":")[0]
    settings, workdir, given = _settings(config, overrides, file, known.workdir)
    traced = origins.trace(settings, config, file, given)
    for key in _PATHS:
        settings = replaced(settings, {key: os.path.expanduser(_get(config, key))})
    if not (workdir / "config.json").exists():  # a run that has begun may go on as it is
        chosen = (origins.COMMAND_LINE, file)
        effects.check(settings, [key for key, origin in traced.items() if origin in chosen])
    if known.print_config:
        print(*origins.listing(settings, traced), sep="\n")
        raise SystemExit(0)
    return Command(settings, workdir, traced, known.branch_from, known.dry_run)


def _settings(
    config: ml_collections.ConfigDict, overrides: Sequence[str], file: str, workdir: Path | None
) -> tuple[Config, Path, set[str]]:
    """Apply the overrides to a config of a file.

    Returns:
      (the checked settings, the folder of the run, the keys that the overrides set).
    """
    # First on a copy, because the overrides also say whether the samples are drawn.
    trial = ml_collections.ConfigDict(config.to_dict(), allow_dotted_keys=True).lock()
    _override(trial, overrides)
    settings = make(trial.to_dict())
    name = f"{Path(file).stem}-{settings.model.name}-{settings.task}-{settings.paradigm}"
    workdir = (workdir or Path("runs") / name).expanduser()
    if isinstance(config, origins.Layered) and origins.has_own_data(settings):
        if not _keeps_drawn(workdir, config):
            config.leave_drawn()
    given = _override(config, overrides)
    return make(config.to_dict()), workdir, given


def _keeps_drawn(workdir: Path, config: origins.Layered) -> bool:
    """Return whether the run in a folder began with settings that now are for drawn samples only.

    It goes on with them, because a run has one meaning from its beginning to its end.
    """
    try:
        begun = json_files.read_object((workdir / "config.json").read_bytes())
    except OSError:
        return False
    return all(_holds(begun, key, value) for key, (value, _) in config.drawn.items())


def _holds(values: Mapping[str, Any], key: str, wanted: Any) -> bool:
    """Return whether nested values have a value, or all items of a mapping, under a key."""
    for part in key.split("."):
        values = values.get(part, {}) if isinstance(values, Mapping) else {}
    if isinstance(wanted, Mapping):
        return isinstance(values, Mapping) and wanted.items() <= values.items()
    return values == wanted


_PROCESSES = {"coordinator": str, "num_processes": int, "process_id": int, "heartbeat_seconds": int}
_REWARD_KEYS = re.compile(r"--config\.(grpo|eval)\.rewards\.([^=]+)=(.*)")
_COLUMN_KEYS = "--config.data.columns."
_KINDS = {int: "an integer", float: "a number", bool: "true or false", tuple: "a list"}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors of one line."""

    def error(self, message: str) -> None:
        raise UserError(message)


def load(path_and_arg: str) -> tuple[ml_collections.ConfigDict, types.ModuleType]:
    """Return a config, locked, and the config file as a module.

    "configs/grpo.py:model=2b" calls `get_config("model=2b")` there.

    Raises:
      UserError: there is no such file, or it has a mistake.
    """
    path, _, arg = path_and_arg.partition(":")
    file = Path(path)
    if not file.exists() and file.parts[:1] == (CONFIGS.name,):
        file = CONFIGS.parent / path
    if not file.exists():
        raise UserError(f"--config={path}: no such file; expected one such as configs/grpo.py")
    if not file.is_file() or not path.endswith(".py"):
        raise UserError(f"--config={path}: expected a Python file, such as configs/grpo.py")
    with _neighbours(file):
        spec = importlib.util.spec_from_file_location("rrft_jax_config", file)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            if not hasattr(module, "get_config"):
                raise UserError(f"--config={path}: expected the file to define get_config(arg)")
            config = module.get_config(arg)
        except UserError:
            raise
        except SyntaxError as error:
            line = f"{error.filename}, line {error.lineno}"
            raise UserError(f"--config={path}: not valid Python ({line}): {error.msg}") from None
        except ImportError as error:
            raise UserError(
                f"--config={path}: {error}; `from configs import NAME` finds the files beside it, "
                f"if its folder is called configs, and those of {CONFIGS}"
            ) from None
        except Exception as error:  # a mistake in the file
            frames = traceback.extract_tb(error.__traceback__)
            lines = [f.lineno for f in frames if f.filename == spec.origin]
            where = f"line {lines[-1]}" if lines else "get_config(arg)"
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"--config={path}: {where}: {reason}") from None
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"--config={path}: get_config returned {type(config).__name__}; expected a config, "
            "such as grpo.get_config(arg) after `from configs import grpo`"
        )
    return config.lock(), module


@contextlib.contextmanager
def _neighbours(file: Path) -> Iterator[None]:
    """Let `from configs import ...` find a config file's neighbours, then the packaged configs.

    Inside the block no other package has this name.
    """
    folders = dict.fromkeys((file.absolute().parent, CONFIGS))
    package = types.ModuleType(CONFIGS.name)
    package.__path__ = [str(folder) for folder in folders if folder.name == CONFIGS.name]
    others = _take_modules(CONFIGS.name)
    sys.modules[CONFIGS.name] = package
    try:
        yield
    finally:
        _take_modules(CONFIGS.name)
        sys.modules.update(others)


def _take_modules(package: str) -> dict[str, types.ModuleType]:
    """Remove a package and its modules from the imported ones, and return them."""
    names = [name for name in sys.modules if name.partition(".")[0] == package]
    return {name: sys.modules.pop(name) for name in names}


def _override(config: ml_collections.ConfigDict, arguments: Sequence[str]) -> set[str]:
    """Apply `--config.key=value` arguments in place, with the types that the config has.

    Returns:
      The keys of the fields that were set.
    """
    named = {a: _override_reward(config, a) or _override_column(config, a) for a in arguments}
    given = set(filter(None, named.values()))
    arguments = [argument for argument, key in named.items() if not key]
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("-") and not name.startswith("--config."):
            raise UserError(
                f"unknown argument {name}: expected --config, --workdir or --config.KEY"
            )
        if name.startswith("-"):
            _check_key(config, key := name.removeprefix("--config."))
            given.add(key)
    values = flags.FlagValues()
    command = ["main", *arguments]
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=command)
        rest = values(command)[1:]
    except (flags.Error, ValueError, TypeError) as error:
        message = " ".join(str(error).removeprefix("flag ").split())
        for argument in arguments:
            if message.startswith(f"{argument}:"):
                old = _get(config, argument.removeprefix("--config.").partition("=")[0])
                kind = _KINDS.get(type(old), type(old).__name__)
                raise UserError(f"{argument}: expected {kind}, such as {old}") from None
        raise UserError(message) from None
    if rest:
        raise UserError(f"unknown argument {rest[0]!r}: expected --config.KEY=VALUE")
    # "a,b" is one text so far.
    for section, field in (
        (config, "stages"),
        (config, "trackers"),
        (config.eval, "tasks"),
        (config.eval, "splits"),
    ):
        parts = [part.strip() for item in section[field] for part in str(item).split(",")]
        section[field] = tuple(filter(None, parts))
    return given


def _override_column(config: ml_collections.ConfigDict, argument: str) -> str:
    """Apply `--config.data.columns.PART=COLUMN`; return the key of the columns, or nothing."""
    part, equals, column = argument.removeprefix(_COLUMN_KEYS).partition("=")
    if not argument.startswith(_COLUMN_KEYS):
        return ""
    if not (part and equals and column):
        raise UserError(f"{argument}: expected {_COLUMN_KEYS}PART=COLUMN")
    with config.unlocked():
        config.data.columns[part] = column
    return "data.columns"


def _override_reward(config: ml_collections.ConfigDict, argument: str) -> str:
    """Apply `--config.grpo.rewards.NAME=WEIGHT`, or eval's; NAME may be new to the config.

    Returns:
      The key of the rewards; empty for any other argument.
    """
    match = _REWARD_KEYS.fullmatch(argument)
    if not match or match[1] not in config:
        return ""
    try:
        number = float(match[3])
    except ValueError:
        raise UserError(
            f"{argument}: expected a number, such as 1.0; the options of a reward stand in a "
            "config file of your own"
        ) from None
    terms, name = config[match[1]].rewards, match[2]
    with config.unlocked(), terms.ignore_type():  # a weight may be 1 so far
        if isinstance(terms.get(name), ml_collections.ConfigDict):
            terms[name].weight = number
        else:
            terms[name] = number
    return f"{match[1]}.rewards"


def _check_key(config: ml_collections.ConfigDict, key: str) -> None:
    """Raise UserError, with the nearest name, unless the key names a field that can be set."""
    if key in ("model.name", "task", "paradigm"):
        name = key.split(".")[0]
        # Other fields follow from these, so changing one alone would give an inconsistent config.
        raise UserError(f"--config.{key}: choose it by --config=FILE:{name}=CHOICE")
    if key in RENAMED:
        raise UserError(f"config key {key} is now called {RENAMED[key]}: set that one")
    *sections, field = key.split(".")
    for depth, part in enumerate([*sections, field]):
        available = list(config) if isinstance(config, ml_collections.ConfigDict) else []
        if part not in available:
            parent = ".".join(["config", *sections[:depth]])
            near = difflib.get_close_matches(part, available, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            has = f"has {', '.join(sorted(available))}" if available else "is a single value"
            raise UserError(f"unknown config key {key}: {hint}{parent} {has}")
        config = config[part]
    if isinstance(config, ml_collections.ConfigDict):
        fields = ", ".join(sorted(config)) or "its own, which are names of your choice"
        raise UserError(f"config key {key} is a section: set one of {fields}")


def _get(config: ml_collections.ConfigDict, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config
