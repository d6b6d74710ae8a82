"""Ask a model about pictures on the command line.

    python -m rrft_jax.chat RUN                                   asks for a picture, then questions
    python -m rrft_jax.chat RUN --picture=a.png "How many?"       prints the reply and ends

RUN is the folder of a run, or a Hugging Face folder. The questions are put in the words that the
run trained under. Each one stands alone: the model does not see the ones before it.
"""

import argparse
import contextlib
import os
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rrft_jax import command
from rrft_jax.errors import UserError
from rrft_jax.prog import prog

if TYPE_CHECKING:  # imported in `main`, after the libraries are silenced
    from rrft_jax.asking import Asker, Reply

_COMMANDS = {
    "/picture": "/picture PATH ... shows other pictures; without a path, none",
    "/help": "/help lists the commands",
    "/quit": "/quit ends, as Ctrl-D does; Ctrl-C stops a reply",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    command.quieten()
    from rrft_jax import compiled
    from rrft_jax.asking import Decoding, load
    from rrft_jax.hf import kinds, storage
    from rrft_jax.monitoring import compilations

    try:
        args = vars(_parser().parse_intermixed_args(argv))
        path, adapter, question, instruction, pictures = (
            args.pop(name) for name in ("run", "adapter", "question", "instruction", "picture")
        )
        Decoding().changed(**args)  # a mistake is seen before the weights are read
        compilations.listen()
        if kinds.holds_run(path) and not storage.is_url(path):
            compiled.keep_beside(pathlib.Path(path).expanduser())
        asker = load(path, adapter=adapter, instruction=instruction)
        if question is None:
            _converse(asker, pictures, args)
        else:
            _say(asker.ask(pictures, question, **args), parts=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


def _parser() -> command.Parser:
    from rrft_jax import fields
    from rrft_jax.asking import Decoding

    parser = command.Parser(
        prog=prog("rrft_jax.chat"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="the folder of a run or of a checkpoint")
    parser.add_argument("question", metavar="QUESTION", nargs="?", help="default: asks for one")
    parser.add_argument(
        "--picture", action="append", default=[], metavar="PATH", help="may stand several times"
    )
    parser.add_argument(
        "--adapter", metavar="DIR", help="the PEFT folder of an adapter, or a run that trained one"
    )
    parser.add_argument(
        "--instruction", help="follows the question; default: that of the run, or none"
    )
    for option in fields.described(Decoding):
        kind, absent = option.own.type, argparse.SUPPRESS
        parser.add_argument(f"--{option.key}", type=kind, default=absent, help=option.meaning)
    return parser


def _converse(asker: "Asker", pictures: list[str], decoding: Mapping[str, Any]) -> None:
    """Answer questions of the terminal until it ends.

    Args:
      asker: the model.
      pictures: paths of the first pictures; without any, they are asked for.
      decoding: options of `Asker.ask`.
    """
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (`input` then edits its line, and has a history)
        print(*_COMMANDS.values(), sep="\n")
    if not pictures:
        line = _line("picture (empty: none)> ")
        if line is None:
            return
        pictures = _pictures(line, pictures)
    while (line := _line("question> ")) is not None:
        name, _, rest = line.partition(" ")
        if name == "/quit":
            return
        if name == "/help":
            print(*_COMMANDS.values(), sep="\n")
        elif name == "/picture":
            pictures = _pictures(rest, pictures)
        elif name.startswith("/"):
            _complain(f"{name}: unknown command; expected one of {', '.join(_COMMANDS)}")
        elif line:
            try:
                _say(asker.ask(pictures, line, **decoding), parts=True)
            except UserError as error:
                _complain(error)
            except KeyboardInterrupt:
                print("stopped; Ctrl-D ends the chat", file=sys.stderr)


def _line(prompt: str) -> str | None:
    """Return the next line of the terminal; None at its end."""
    try:
        return input(prompt if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        if sys.stdin.isatty():
            print()
        return None


def _pictures(line: str, before: list[str]) -> list[str]:
    """Return the paths in a line; if one is no picture, say so and return those from before."""
    from rrft_jax.data.pictures import BadSample, open_image

    try:
        paths = [os.path.expanduser(path) for path in shlex.split(line)]
        for path in paths:
            open_image(path)
    except (ValueError, BadSample) as error:  # a quote without its end, or no picture
        _complain(error)
        return before
    return paths


def _say(reply: "Reply", parts: bool) -> None:
    """Print a reply, whole or as thought and answer; it must not control the terminal."""
    shown = [("", reply)]
    if parts and reply.thought:
        shown = [("thought: ", reply.thought), ("answer: ", reply.answer)]
    for label, text in shown:
        text = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
        print(f"{label}{text}", flush=True)
    if not reply.finished:
        print("(cut off; a larger --max_new_tokens lets it end)", file=sys.stderr)


def _complain(problem: Any) -> None:
    print(f"error: {problem}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
