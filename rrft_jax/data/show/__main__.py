"""The command that shows the first samples of a stage, from the config of a run."""

import contextlib
import itertools
import pathlib
import sys
from collections.abc import Sequence

from rrft_jax import command
from rrft_jax.data.processor import BadSample
from rrft_jax.data.show import lines, visible, write_pictures
from rrft_jax.errors import UserError
from rrft_jax.prog import prog


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    command.quieten()
    from rrft_jax.data.sources import Data
    from rrft_jax.data.stages import open_processor, stage_loader

    parser = command.Parser(
        prog=prog("rrft_jax.data.show"),
        description="Shows training samples as the model sees them.",
        epilog="--config=FILE[:NAME=CHOICE,...] and --config.KEY=VALUE: as of rrft_jax.main.",
        allow_abbrev=False,
    )
    parser.add_argument("-n", type=int, default=3, help="how many samples; default: %(default)s")
    parser.add_argument("--stage", help="sft or grpo; default: the config's first")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/show"),
        help="the pictures' folder; default: %(default)s",
    )
    try:
        known, rest = parser.parse_known_args(argv)
        config, _ = command.parse(rest)
        stages = tuple(config.stages)
        stage = known.stage or next(iter(stages), None)
        if stage not in stages:
            has = f"one of {', '.join(stages)}" if stages else "a config that trains"
            raise UserError(f"--stage={stage or ''}: expected {has}")
        if known.n < 1:
            raise UserError(f"-n {known.n}: expected 1 or more")
        data, processor = Data.open(config), open_processor(config.model, config.data)
        loader = stage_loader(config, stage, data.training[stage], processor)
        with contextlib.closing(loader):
            for batch in itertools.islice(loader.samples(), known.n):
                if isinstance(batch, BadSample):
                    print(f"skipped ({batch.cause}): {visible(' '.join(str(batch).split()))}\n")
                    continue
                shown = lines(batch, 0, processor)
                files = write_pictures(batch, 0, processor, known.out.expanduser())
                print(*shown, *files, sep="\n", end="\n\n")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
