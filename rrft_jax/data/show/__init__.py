r"""Show samples as the model sees them: every token, and the pictures as PNG files.

    python -m rrft_jax.data.show --config=configs/sft.py -n 1 [--config.KEY=VALUE ...]
        [--stage=grpo | --split=id] [--id=ID] [--sheet=FILE.png] [--out=FOLDER]

    sample counting-train-0-2: 61 prompt tokens, 32 target tokens with loss
        answer: 3
        rewards of its answer: accuracy 1, format 1
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

The rewards are those of the run, for the row's own answer in the layout that SFT teaches. Columns
of the row that the run does not use itself follow, as a reward of your own sees them.

Each line of the table is a run of neighbouring tokens of one kind, cut after line breaks. `|`
separates tokens, and `*` marks tokens that the loss trains. The positions are those of the first
and the last token, as (time, row, column) if the three differ.

The samples come once each, in the order of the stage before they are sorted by shape. A sample that
the stage would skip gives one line with the reason.
"""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from rrft_jax.console import visible
from rrft_jax.data.loader import Batch
from rrft_jax.data.processor import Processor
from rrft_jax.models.prompt import Prompt

_TURN = "<|im_start|>"


@dataclasses.dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one kind: one control token, a picture, or a line of text."""

    role: str  # the speaker of the turn; "" before the first turn
    start: int  # index of the first token in the row without its padding, prompt and target
    tokens: np.ndarray  # [N]
    positions: np.ndarray  # [3,N]: time, row, column
    loss: bool
    text: str


def row_of(prompt: Prompt, b: int) -> Prompt:
    """Return row `b` of a batch without its padding, as `Processor.encode` made it."""
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
    """Return the tokens of a batch's row `b`: the prompt, then the completion with its loss."""
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
            # The positions of a picture's tokens tell its number of rows and columns.
            rows, cols = (int(np.ptp(axis)) + 1 for axis in positions[1:, indices])
            text = f"{processor.control_tokens[some[0]]} x {len(some)} ({rows} x {cols})"
        else:
            text = "|".join(map(visible, filter(None, processor.pieces(some))))
        if opening:  # the word after a turn's first token
            role = processor.decode(some).split("\n")[0]
        opening = _opens_turn(some, processor)
        found.append(Run(role, first, some, positions[:, indices], bool(loss[first]), text))
    # A turn's first token belongs to the role that the next token names.
    return [
        dataclasses.replace(run, role=following.role) if _opens_turn(run.tokens, processor) else run
        for run, following in itertools.zip_longest(found, found[1:], fillvalue=found[-1])
    ]


def lines(batch: Batch, b: int, processor: Processor) -> Iterator[str]:
    """Yield the printed lines for a batch's row `b`, without its pictures."""
    row = runs(batch, b, processor)
    learned = sum(len(run.tokens) for run in row if run.loss)
    asked = sum(len(run.tokens) for run in row) - learned
    reply = f"{learned} target tokens with loss" if learned else "the completion is sampled"
    yield f"sample {visible(batch.examples[b].id)}: {asked} prompt tokens, {reply}"
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
    """Write the pictures of row `b` as `<id>-<number>.png`; return a line for each."""
    said = []
    for number, picture in enumerate(processor.pictures(row_of(batch.prompt, b))):
        # An id comes from the data and could hold anything, even the name of another folder.
        name = re.sub(r"[^\w.-]", "_", batch.examples[b].id)[:100]
        file = folder / f"{name}-{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
        said.append(f"{file}: {picture.width} x {picture.height} pixels")
    return said


def _cut(
    tokens: np.ndarray, positions: np.ndarray, loss: np.ndarray, processor: Processor
) -> Iterator[np.ndarray]:
    """Return the indices of each run."""
    image, control = tokens == processor.image_token, np.isin(tokens, [*processor.control_tokens])
    ends_line = np.array([not c and "\n" in processor.decode([t]) for t, c in zip(tokens, control)])
    same_picture = image[1:] & image[:-1] & (positions[0, 1:] == positions[0, :-1])
    same_text = ~(control[1:] | control[:-1] | ends_line[:-1] | (loss[1:] != loss[:-1]))
    starts = np.flatnonzero(~(same_picture | same_text)) + 1
    return iter(np.split(np.arange(len(tokens)), starts))


def _opens_turn(tokens: np.ndarray, processor: Processor) -> bool:
    return processor.control_tokens.get(int(tokens[0])) == _TURN


def _place(position: np.ndarray) -> str:
    time, row, col = map(int, position)
    return str(time) if time == row == col else f"({time},{row},{col})"
