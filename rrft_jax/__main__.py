"""The command `rrft`, also `python -m rrft_jax`: each subcommand runs a module of the package.

rrft --config=configs/grpo.py --workdir=runs/demo     trains, as `rrft train ...` does
rrft eval --config.model.path=runs/demo               as `python -m rrft_jax.main ...`
rrft --help                                           lists the subcommands
"""

import dataclasses
import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from rrft_jax import __version__


@dataclasses.dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
      module: the module whose function reads the arguments.
      summary: one line for the list of subcommands.
      first: arguments before the typed ones, which may override them.
      function: the name of the function.
    """

    module: str
    summary: str
    first: tuple[str, ...] = ()
    function: str = "main"


COMMANDS = {
    "train": Command("rrft_jax.main", "train by a config, or resume a stopped run"),
    "eval": Command(
        "rrft_jax.main",
        "evaluate a model or a run",
        first=("--config=configs/eval.py",),
        function="evaluate",
    ),
    "chat": Command("rrft_jax.chat", "ask a model about pictures"),
    "report": Command("rrft_jax.report.__main__", "print results again, and write a page of them"),
    "compare": Command("rrft_jax.evaluation.compare", "compare runs sample by sample"),
    "study": Command("rrft_jax.study.__main__", "compare paradigms on the same samples"),
    "rescore": Command("rrft_jax.evaluation.rescore", "score predictions again, without a model"),
    "export": Command("rrft_jax.export", "write a checkpoint as a Hugging Face folder"),
    "show": Command("rrft_jax.data.show.__main__", "show samples as the model sees them"),
    "draw": Command("rrft_jax.data.drawn.__main__", "write drawn samples as a data set"),
    "tfds": Command("rrft_jax.data.tfds_builder", "write samples as a TFDS data set"),
    "plan": Command("rrft_jax.plan.__main__", "say whether a config fits, and what it costs"),
    "bench": Command("rrft_jax.bench.__main__", "measure the parts of a step"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"rrft {__version__}")
        return 0
    if name.startswith("-"):
        name, rest = "train", [name, *rest]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        print(f"error: {name}: {hint}expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 1
    command = COMMANDS[name]
    # A reward of one's own may be a file of the current folder. This folder comes last, so that its
    # files replace no installed package.
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())
    sys.argv = [f"rrft {name}", *rest]  # the command's help says what was typed
    function = getattr(importlib.import_module(command.module), command.function)
    return function([*command.first, *rest])


def usage() -> str:
    """Return the text of `rrft --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: rrft COMMAND ...",
            "       rrft --config=FILE ...    the same as rrft train --config=FILE ...",
            "",
            "Reinforcement fine-tuning of vision-language models.",
            "",
            *lines,
            "",
            "rrft COMMAND --help describes a command; rrft --version prints the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
