"""The positions of tokens and patches: time, row and column, as the Qwen-VL models count them."""

import functools

import numpy as np


def rope_positions(
    tokens: np.ndarray, grids: np.ndarray, merge: int, image_token: int
) -> tuple[np.ndarray, np.int32]:
    """Return the positions (time, row, column) of every token of one unpadded row.

    Text advances on all three axes together. A picture's tokens share one time; their rows and
    columns start where the text stopped. The text after a picture continues after the largest of
    the picture's positions.

        text  <|vision_start|>  2x2 picture  <|vision_end|>
        0     1                 2  2  2  2   4                time
        0     1                 2  2  3  3   4                row
        0     1                 2  3  2  3   4                column

    Args:
      tokens: [P], with all tokens of every picture.
      grids: [I,2], rows and columns of patches of each picture.
      merge: the side, in patches, of the square that becomes one token.
      image_token: the token that pictures are made of.

    Returns:
      The positions [3,P] int32, and the position of the next token.
    """
    starts = np.flatnonzero(tokens == image_token)
    pieces, done, position = [], 0, 0
    for rows, cols in np.asarray(grids) // merge:
        start = starts[np.searchsorted(starts, done)]
        pieces.append(np.broadcast_to(position + np.arange(start - done), (3, start - done)))
        position += start - done
        row, col = np.divmod(np.arange(rows * cols), cols)
        pieces.append(position + np.stack([np.zeros_like(row), row, col]))
        position += max(rows, cols)
        done = start + rows * cols
    rest = len(tokens) - done
    pieces.append(np.broadcast_to(position + np.arange(rest), (3, rest)))
    return np.concatenate(pieces, axis=1).astype(np.int32), np.int32(position + rest)


@functools.lru_cache(256)
def patch_rows_cols(rows: int, cols: int, merge: int) -> np.ndarray:
    """Return each patch's row and column, [rows*cols, 2]; merged squares stay together."""
    where = np.stack(np.mgrid[:rows, :cols], axis=-1).astype(np.int32)
    blocks = where.reshape(rows // merge, merge, cols // merge, merge, 2)
    return blocks.swapaxes(1, 2).reshape(-1, 2)
