"""Where in a row of shards a clip is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """A shard, and a clip within it; both from 0."""

    shard: int
    clip: int


class Places:
    """The clips of all shards, counted through.

    Args:
        sizes: Clips of each shard.
    """

    def __init__(self, sizes: Sequence[int]):
        self._ends = np.cumsum([0, *sizes], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def find(self, index: int) -> Place:
        """The place of a clip; a negative index counts from the end.

        Raises:
            IndexError: There is no such clip.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip must be from {-len(self)} to {len(self) - 1}; got {index}")
        index %= len(self)
        # Behind empty shards, which end where they begin.
        shard = int(np.searchsorted(self._ends, index, side="right")) - 1
        return Place(shard, index - int(self._ends[shard]))
