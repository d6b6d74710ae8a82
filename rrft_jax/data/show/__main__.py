"""The command that shows samples of a stage or of a held-out split, from the config of a run."""

import contextlib
import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from rrft_jax import command
from rrft_jax.console import visible
from rrft_jax.data.batch import Batch
from rrft_jax.data.loader import Loader
from rrft_jax.data.pictures import BadSample
from rrft_jax.data.processor import Processor
from rrft_jax.data.samples import Source
from rrft_jax.data.show import lines, row_of, write_pictures
from rrft_jax.data.show.facts import facts
from rrft_jax.data.show.sheet import Cell, sheet
from rrft_jax.data.sources import Data
from rrft_jax.errors import UserError
from rrft_jax.prog import prog
from rrft_jax.settings import Config
from rrft_jax.tasks.example import Example

Facts = Callable[[Source, Example], Iterable[str]]  # the lines about an example of a source


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    command.quieten()
    from rrft_jax.data.stages import open_processor, stage_loader

    parser = command.Parser(
        prog=prog("rrft_jax.data.show"),
        description="Shows samples as the model sees them.",
        epilog="--config=FILE[:NAME=CHOICE,...] and --config.KEY=VALUE: as of rrft_jax.main.",
        allow_abbrev=False,
    )
    parser.add_argument("-n", type=int, default=3, help="how many samples; default: %(default)s")
    parser.add_argument("--stage", help="sft or grpo; default: the config's first")
    parser.add_argument("--split", help="a held-out split, such as id, in place of a stage")
    parser.add_argument("--id", help="only the sample of this id")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs/show"),
        help="the pictures' folder; default: %(default)s",
    )
    parser.add_argument(
        "--sheet",
        type=pathlib.Path,
        metavar="FILE.png",
        help="all pictures in one, and no tokens; best with a large -n",
    )
    try:
        known, rest = parser.parse_known_args(argv)
        config, _ = command.parse(rest)
        if known.n < 1:
            raise UserError(f"-n {known.n}: expected 1 or more")
        if known.sheet and known.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise UserError(f"--sheet={known.sheet}: expected a name such as sheet.png")
        data = Data.open(config)
        stage, sources = _chosen(config, data, known.stage, known.split)
        processor = open_processor(config.model, config.data)
        with contextlib.closing(stage_loader(config, stage, sources, processor)) as loader:
            found = _found(loader, sources, known.id) if known.id is not None else loader.samples()
            samples = itertools.islice(found, known.n)
            told = functools.partial(facts, config, stage, processor.prompt_end)
            if known.sheet:
                _write_sheet(samples, processor, known.sheet.expanduser(), told)
            else:
                _print(samples, processor, known.out.expanduser(), told)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _chosen(
    config: Config, data: Data, stage: str | None, split: str | None
) -> tuple[str, list[Source]]:
    """Return the stage whose form the samples take, and the sources to show."""
    if stage and split:
        raise UserError(f"--stage={stage} and --split={split}: expected one of them")
    if split or not (stage or config.stages):
        split = split or next(iter(data.splits), "")
        if split not in data.splits:
            raise UserError(f"--split={split}: expected one of {', '.join(data.splits) or 'none'}")
        return "eval", data.splits[split]
    stage = stage or config.stages[0]
    if stage not in config.stages:
        has = f"one of {', '.join(config.stages)}" if config.stages else "a config that trains"
        raise UserError(f"--stage={stage}: expected {has}")
    return stage, data.training[stage]


def _found(loader: Loader, sources: Sequence[Source], name: str) -> Iterator[Batch | BadSample]:
    """Yield the samples of an id; several sources may each have one.

    Raises:
      UserError: there is none.
    """
    examples = itertools.chain.from_iterable(
        (source.examples[i] for i in range(len(source.examples))) for source in sources
    )
    known = False
    for number, example in enumerate(examples):
        if not isinstance(example, BadSample) and example.id == name:
            known = True
            yield loader.sample(number)
    if not known:
        raise UserError(f"--id={name}: no sample has it; -n 3 without --id shows the first ids")


def _print(
    samples: Iterator[Batch | BadSample], processor: Processor, out: pathlib.Path, told: Facts
) -> None:
    for batch in samples:
        if isinstance(batch, BadSample):
            print(f"{_skipped(batch)}\n")
            continue
        head, *tokens = lines(batch, 0, processor)
        about = told(batch.sources[0], batch.examples[0])
        files = write_pictures(batch, 0, processor, out)
        print(head, *about, *tokens, *files, sep="\n", end="\n\n")


def _write_sheet(
    samples: Iterator[Batch | BadSample], processor: Processor, file: pathlib.Path, told: Facts
) -> None:
    """Print a few lines about each sample, and write the pictures of all as one."""
    cells = []
    for batch in samples:
        if isinstance(batch, BadSample):
            print(_skipped(batch))
            continue
        [example] = batch.examples
        print(f"sample {visible(example.id)}: {visible(' '.join(example.question.split()))}")
        print(*told(batch.sources[0], example), sep="\n")
        pictures = processor.pictures(row_of(batch.prompt, 0)) or [None]
        for number, picture in enumerate(pictures, 1):
            which = f" ({number} of {len(pictures)})" if len(pictures) > 1 else ""
            cells.append(Cell(picture, (example.id + which, example.question, example.answer)))
    if not cells:
        raise UserError(f"--sheet={file}: none of these samples can be used")
    whole = sheet(cells)
    file.parent.mkdir(parents=True, exist_ok=True)
    whole.save(file)
    number = sum(cell.picture is not None for cell in cells)
    print(f"{file}: {number} pictures, {whole.width} x {whole.height} pixels")


def _skipped(bad: BadSample) -> str:
    return f"skipped ({bad.cause}): {visible(' '.join(str(bad).split()))}"


if __name__ == "__main__":
    sys.exit(main())
