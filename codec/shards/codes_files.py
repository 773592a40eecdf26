"""The codes of a finished corpus, as one sequence."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.shards.manifest import load_manifest
from codec.shards.parquet import ROWS_PER_GROUP, RowsFile
from codec.shards.place import Places
from codec.shards.record import shard_name
from codec.shards.schema import Row

# Each is an open file.
_FILES_KEPT = 64
# The neighbours of a clip are likely to be the next ones.
_GROUPS_KEPT = 8


class CodesFiles:
    """Codes of all clips of a finished corpus, in the order of its input; read when they are asked for.

    It can be sent to other processes.

    Args:
        folder: That of the corpus.

    Attributes:
        facts: Of the codec whose codes they are.

    Raises:
        ValueError: The corpus is not finished; or, when clips are asked for, its files are damaged or of others.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        manifest = load_manifest(self.folder)
        self.facts = manifest.codec
        self._sizes = [shard.clips for shard in manifest.shards]
        self._places = Places(self._sizes)
        self._file = lru_cache(_FILES_KEPT)(self._open)
        self._rows = lru_cache(_GROUPS_KEPT)(self._read)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        """Codes of a clip, [num_quantizers, frames].

        Raises:
            IndexError: There is no such clip.
        """
        return self.row(index).codes.astype(np.int64)

    def row(self, index: int) -> Row:
        """All that is known of a clip.

        Raises:
            IndexError: There is no such clip.
        """
        shard, within = self._places.find(index)
        group, within = divmod(within, ROWS_PER_GROUP)
        return self._rows(shard, group)[within]

    def _read(self, shard: int, group: int) -> list[Row]:
        return self._file(shard).rows(group)

    def _open(self, shard: int) -> RowsFile:
        path = self.folder / f"{shard_name(shard)}.parquet"
        file = RowsFile(path)
        if file.facts != self.facts:
            raise ValueError(f"{path}: must hold codes of {self.facts}; got {file.facts}")
        if file.num_rows != self._sizes[shard]:
            raise ValueError(f"{path}: must have {self._sizes[shard]} rows, as the manifest says; got {file.num_rows}")
        return file
