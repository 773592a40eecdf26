"""The order in which the codes of a chunk are entropy-coded, and where their neighbours stand."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Layout(NamedTuple):
    """Where the codes of a chunk stand, in the order of coding: by frame + stage, then stage, then channel.

    Codes are kept in cells [channels, 1 + num_quantizers, 1 + frames], the first row and column empty, so that all
    neighbours have a cell. Indices are into the flattened cells.

    Attributes:
        shape: Of the cells.
        stages: Of each code, [codes].
        cells: Index of each code, [codes].
        first: Index of the first stage's code of its frame; of an empty cell for the first stage itself, [codes].
        diagonals: Where the codes of one sum of frame and stage begin, and at last where the tail begins.
        tail: Of the last codes, which no digits stand for, indices into flattened codes [channels, num_quantizers,
            frames].
    """

    shape: tuple[int, int, int]
    stages: NDArray[np.int32]
    cells: NDArray[np.int32]
    first: NDArray[np.int32]
    diagonals: NDArray[np.int64]
    tail: NDArray[np.int64]

    @property
    def row(self) -> int:
        """How far the cells of two stages are apart; those of two frames are neighbours."""
        return self.shape[2]

    @property
    def num_coded(self) -> int:
        """Codes before the tail."""
        return int(self.diagonals[-1])

    def empty_cells(self, none: int) -> NDArray[np.int64]:
        """Cells that all hold `none`."""
        return np.full(self.shape, none, dtype=np.int64)


def make_layout(channels: int, num_quantizers: int, frames: int, tail: int) -> Layout:
    """Order the codes of a chunk of that shape, of which the last `tail` are not coded as digits."""
    # Nearly all chunks of a file have one shape. A very large one would hold memory for nothing.
    make = _make_layout if channels * num_quantizers * frames <= 1 << 16 else _make_layout.__wrapped__
    return make(channels, num_quantizers, frames, tail)


@lru_cache(maxsize=4)
def _make_layout(channels: int, num_quantizers: int, frames: int, tail: int) -> Layout:
    channel, stage, frame = np.indices((channels, num_quantizers, frames), dtype=np.int32).reshape(3, -1)
    order = np.lexsort((channel, stage, stage + frame))
    channel, stage, frame = channel[order], stage[order], frame[order]
    row = frames + 1
    top = channel * (row * (num_quantizers + 1)) + frame + 1
    coded = max(len(order) - tail, 0)
    sizes = np.bincount(stage[:coded] + frame[:coded])
    return Layout(
        shape=(channels, num_quantizers + 1, row),
        stages=stage,
        cells=top + (stage + 1) * row,
        first=np.where(stage == 0, 0, top + row),
        diagonals=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        tail=order[coded:].copy(),
    )


def digit_order(diagonals: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order of coding of [2, codes] digits, flattened: all high digits of a diagonal, then all its low digits."""
    diagonal = np.repeat(np.arange(len(diagonals) - 1), np.diff(diagonals))
    return np.argsort(np.concatenate([2 * diagonal, 2 * diagonal + 1]), kind="stable")
