r"""Shows the training's samples as the model sees them: every token, and the pictures as PNG files.

    python -m rrft_jax.data.show --config=configs/sft.py -n 1 [--config.KEY=VALUE ...]

    sample counting-train-0-2: 61 prompt tokens, 32 target tokens with loss
        tokens  positions             role       text
             0  0                     user       <|im_start|>
           1-2  1 - 2                 user       user|\n
             3  3                     user       <|vision_start|>
          4-19  4 - (4,7,7)           user       <|image_pad|> x 16 (4 x 4)
            20  8                     user       <|vision_end|>
         21-31  9 - 19                user       Remove| all| gray| things|.| How| many| ...
         ...
         87-88  75 - 76             * assistant  3|\n
         89-91  77 - 79             * assistant  </|answer|>
            92  80                  * assistant  <|im_end|>
    runs/show/counting-train-0-2-0.png: 112 x 112 pixels

A line is a run of neighbouring tokens of one kind, cut after line breaks. `|` stands between
tokens, `*` marks those that the loss trains. Positions are those of the first and the last token:
(time, row, column) where the three differ. The samples come in the order of the stage, before it
sorts them by shape, and with the thoughts that it drops; one that it would skip is a line that
says why.
"""

import contextlib
import dataclasses
import itertools
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from rrft_jax.data.loader import Batch
from rrft_jax.data.processor import BadRow, Processor
from rrft_jax.errors import UserError
from rrft_jax.models.prompt import Prompt

_TURN = "<|im_start|>"


@dataclasses.dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one kind: one control token, a picture, or a line of text."""

    role: str  # whose turn it is; "" before the first
    start: int  # index of the first token in the row without its padding, prompt and target
    tokens: np.ndarray  # [N]
    positions: np.ndarray  # [3,N]: time, row, column
    loss: bool
    text: str


def row_of(prompt: Prompt, b: int) -> Prompt:
    """Row `b` of a batch without its padding, as `Processor.encode` made it."""
    tokens, patches = prompt.mask[b], prompt.patch_image[b] >= 0
    return Prompt(
        tokens=prompt.tokens[b][tokens],
        mask=prompt.mask[b][tokens],
        positions=prompt.positions[:, b][:, tokens],
        next_position=prompt.next_position[b],
        patches=prompt.patches[b][patches],
        patch_rows_cols=prompt.patch_rows_cols[b][patches],
        patch_image=prompt.patch_image[b][patches],
    )


def runs(batch: Batch, b: int, processor: Processor) -> list[Run]:
    """The tokens of a batch's row `b`: its prompt's, then the completion's that carry loss."""
    prompt = row_of(batch.prompt, b)
    target = np.zeros(0, np.int32)
    if batch.completions is not None:
        target = batch.completions[b, 0][batch.completion_mask[b, 0]]
    tokens = np.concatenate([prompt.tokens, target])
    after = np.broadcast_to(prompt.next_position + np.arange(len(target)), (3, len(target)))
    positions = np.concatenate([prompt.positions, after], axis=1)
    loss = np.arange(len(tokens)) >= len(prompt.tokens)

    found, role, opening = [], "", False
    for indices in _cut(tokens, positions, loss, processor):
        first, some = indices[0], tokens[indices]
        if some[0] == processor.image_token:
            # A picture's tokens are spread over its rows and columns of positions.
            rows, cols = (int(np.ptp(axis)) + 1 for axis in positions[1:, indices])
            text = f"{processor.control_tokens[some[0]]} x {len(some)} ({rows} x {cols})"
        else:
            text = "|".join(map(_visible, _pieces(some, processor)))
        if opening:  # the word after a turn's first token
            role = processor.decode(some).split("\n")[0]
        opening = _opens_turn(some, processor)
        found.append(Run(role, first, some, positions[:, indices], bool(loss[first]), text))
    # A turn's first token belongs to the role that only the next one names.
    return [
        dataclasses.replace(run, role=following.role) if _opens_turn(run.tokens, processor) else run
        for run, following in itertools.zip_longest(found, found[1:], fillvalue=found[-1])
    ]


def lines(batch: Batch, b: int, processor: Processor) -> Iterator[str]:
    """What `main` prints of a batch's row `b`, but for its pictures."""
    row = runs(batch, b, processor)
    learned = sum(len(run.tokens) for run in row if run.loss)
    asked = sum(len(run.tokens) for run in row) - learned
    reply = f"{learned} target tokens with loss" if learned else "the completion is sampled"
    yield f"sample {_visible(batch.examples[b].id)}: {asked} prompt tokens, {reply}"
    yield f"{'tokens':>10}  {'positions':<18}    {'role':<9}  text"
    for run in row:
        ends = dict.fromkeys((run.start, run.start + len(run.tokens) - 1))
        places = dict.fromkeys(_place(run.positions[:, end]) for end in (0, -1))
        mark = "*" if run.loss else " "
        yield (
            f"{'-'.join(map(str, ends)):>10}  {' - '.join(places):<18}  {mark} {run.role:<9}  "
            f"{run.text}"
        )


def write_pictures(batch: Batch, b: int, processor: Processor, folder: pathlib.Path) -> list[str]:
    """Writes the pictures of row `b` as `<id>-<number>.png`; returns a line on each."""
    said = []
    for number, picture in enumerate(processor.pictures(row_of(batch.prompt, b))):
        # An id is data and could hold anything, another folder's name included.
        name = re.sub(r"[^\w.-]", "_", batch.examples[b].id)[:100]
        file = folder / f"{name}-{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
        said.append(f"{file}: {picture.width} x {picture.height} pixels")
    return said


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    # Above this package, and so imported by the tool alone: it reads a run's config and data.
    from rrft_jax import main as command

    command.quieten()
    from rrft_jax import pipeline

    parser = command.Parser(
        prog="python -m rrft_jax.data.show",
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
        data, processor = pipeline.Data.open(config), pipeline.open_processor(config)
        loader = pipeline.stage_loader(config, stage, data.training[stage], processor, batch_size=1)
        with contextlib.closing(loader):
            for row in itertools.islice(loader.samples(), known.n):
                if isinstance(row, BadRow):
                    print(f"skipped ({row.cause}): {_visible(' '.join(str(row).split()))}\n")
                    continue
                batch = loader.batch([row], row.size)
                shown = lines(batch, 0, processor)
                files = write_pictures(batch, 0, processor, known.out.expanduser())
                print(*shown, *files, sep="\n", end="\n\n")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _cut(
    tokens: np.ndarray, positions: np.ndarray, loss: np.ndarray, processor: Processor
) -> Iterator[np.ndarray]:
    """The indices of each run."""
    image, control = tokens == processor.image_token, np.isin(tokens, [*processor.control_tokens])
    ends_line = np.array([not c and "\n" in processor.decode([t]) for t, c in zip(tokens, control)])
    same_picture = image[1:] & image[:-1] & (positions[0, 1:] == positions[0, :-1])
    same_text = ~(control[1:] | control[:-1] | ends_line[:-1] | (loss[1:] != loss[:-1]))
    starts = np.flatnonzero(~(same_picture | same_text)) + 1
    return iter(np.split(np.arange(len(tokens)), starts))


def _opens_turn(tokens: np.ndarray, processor: Processor) -> bool:
    return processor.control_tokens.get(int(tokens[0])) == _TURN


def _pieces(tokens: np.ndarray, processor: Processor) -> Iterator[str]:
    """What each token stands for; several together where they share a character's bytes."""
    if int(tokens[0]) in processor.control_tokens:
        yield processor.control_tokens[int(tokens[0])]
        return
    start = 0
    for end in range(1, len(tokens) + 1):
        piece = processor.decode(tokens[start:end])
        if end == len(tokens) or not piece.endswith("\ufffd"):
            yield piece
            start = end


def _visible(text: str) -> str:
    r"""Line breaks as \n, and so on: text of a data set must not steer a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _place(position: np.ndarray) -> str:
    time, row, col = map(int, position)
    return str(time) if time == row == col else f"({time},{row},{col})"


if __name__ == "__main__":
    sys.exit(main())
