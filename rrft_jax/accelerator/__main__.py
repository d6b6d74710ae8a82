"""Check an accelerator: are results right there, and how fast is a step?

    ./launch/accelerator_check.sh [--out=DIR] [--parts=kernels,score] [--minutes=9]

It needs no network, no data and no checkpoint, and installs nothing. It runs on the first GPU or
TPU that JAX sees. On a machine without one it runs in small on the CPU. Then its speeds mean
nothing, but it shows that the check itself works.

Its parts, in order:

  device     versions, and the device beside the table that the plan compiles for
  kernels    attention kernels beside the plain XLA form, forward and gradient
  score      log-probabilities and gradients in bfloat16 beside float32
  sampling   Qwen2-VL 2B with random weights: 14 prompts of 700 tokens, 8 completions of 512 each
  update     its reference and its update
  torch      the same step by transformers in torch, if both are installed
  greedy     greedy tokens beside transformers in torch
  grpo       a short run of the packaged model, beside the same run on the CPU

Each part runs in a process of its own, with a time limit. The check goes on after a part that
failed. It prints a table for each part, and writes all to DIR/accelerator.json after every line.
What libraries print is in DIR/accelerator.log. JAX_COMPILATION_CACHE_DIR names a folder that keeps
compiled programs for a second check.

The exit code is 0 if everything holds, 1 if something does not, and 130 after Ctrl-C.
"""

import argparse
import math
import pathlib
import signal
import sys
from collections.abc import Sequence

from rrft_jax.accelerator import parts, summary
from rrft_jax.accelerator.findings import Finding
from rrft_jax.accelerator.running import FILE, USUAL, Check, Outcome
from rrft_jax.errors import UserError
from rrft_jax.markdown import aligned
from rrft_jax.prog import prog

MARKS = {True: "yes", False: "NO", None: ""}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog("rrft_jax.accelerator"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", default="accelerator", help="folder; default: %(default)s")
    parser.add_argument("--parts", default=",".join(parts.PARTS), help="default: all")
    parser.add_argument(
        "--minutes",
        type=float,
        default=USUAL / 60,
        help="for all parts; the limit of each grows with it; default: %(default)s",
    )
    args = parser.parse_args(argv)
    names = args.parts.split(",")
    try:
        verify(args, names)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    check = Check(pathlib.Path(args.out), names, 60 * args.minutes, show)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's end, as Ctrl-C
    try:
        check.run()
    except KeyboardInterrupt:
        print(f"stopped: what was measured is in {check.out / FILE}", flush=True)
        return 130
    show("summary", Outcome("ok", findings=list(map(vars, summary.findings(check.measured)))))
    failed = [name for name, outcome in check.outcomes.items() if not outcome.holds]
    print(f"written: {check.out / FILE}")
    print(f"to look at: {', '.join(failed)}" if failed else "everything holds")
    return 0 if check.holds else 1


def verify(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Check the arguments, and make the folder.

    Raises:
      UserError: there is no such part, no time, or no such folder.
    """
    if unknown := [name for name in names if name not in parts.PARTS]:
        raise UserError(
            f"--parts={args.parts}: {unknown[0]!r} is not one of {', '.join(parts.PARTS)}"
        )
    if not 0 < args.minutes < math.inf:
        raise UserError(f"--minutes={args.minutes:g}: expected a number above 0, such as 9")
    try:
        pathlib.Path(args.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(
            f"--out={args.out}: this folder can't be made ({why}); name another"
        ) from error


def show(name: str, outcome: Outcome) -> None:
    """Print the table of a part."""
    status = {"no": "NO"}.get(outcome.status, outcome.status)
    head = f"{name} ({outcome.seconds:.0f} s): {status}{f', {outcome.why}' if outcome.why else ''}"
    print(head, flush=True)
    rows = [_row(Finding(**finding)) for finding in outcome.findings]
    if rows:
        print("\n".join(aligned([(name, "value", "expected", "holds"), *rows])), flush=True)
    print(flush=True)


def _row(finding: Finding) -> tuple[str, str, str, str]:
    value = finding.value
    if not isinstance(value, str):
        value = "-" if value is None else f"{value:,.4g}"
    return finding.what, value, finding.wanted, MARKS[finding.holds]


if __name__ == "__main__":
    sys.exit(main())
