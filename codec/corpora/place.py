"""Where the bytes of a recording lie: a class for each kind of place.

Each is plain data that fits in a line of JSON, and gives the audio as `codec.audio.open_source` takes it: a path, or a
descriptor of a file that holds it and nothing else. libsndfile needs one, so what lies inside of a larger file is
copied into a temporary one.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from codec.audio import AudioFileError
from codec.corpora.arrow import read_dataset_row, read_parquet_row

COPY_BYTES = 1 << 20


class Place(Protocol):
    """What all places can do."""

    def open(self, name: str) -> AbstractContextManager[str | int]:
        """Give the path of the audio, or a descriptor that is good for as long as the block lasts.

        Args:
            name: What errors call the recording.

        Raises:
            AudioFileError: It is not there.
            OSError: What holds it cannot be opened.
        """
        ...


@dataclass(frozen=True, slots=True)
class File:
    """A file of its own.

    Attributes:
        path: Absolute.
    """

    path: str

    @contextmanager
    def open(self, name: str) -> Iterator[str | int]:
        """See `Place`."""
        yield self.path


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """Bytes of an uncompressed tar archive, which is not unpacked.

    Attributes:
        path: The archive's, absolute.
        offset: Where they begin.
        size: How many.
    """

    path: str
    offset: int
    size: int

    @contextmanager
    def open(self, name: str) -> Iterator[str | int]:
        """See `Place`."""
        with tempfile.TemporaryFile() as copy:
            with open(self.path, "rb") as archive:
                archive.seek(self.offset)
                left = self.size
                # The size is what a header claims: no memory is taken for it before its bytes are there.
                while left and (data := archive.read(min(left, COPY_BYTES))):
                    copy.write(data)
                    left -= len(data)
            if left:
                raise AudioFileError(f"{name}: the archive ends {left} bytes before it does")
            copy.seek(0)
            yield copy.fileno()


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """A row of a data set that Hugging Face `datasets` saved with `save_to_disk`.

    Attributes:
        path: The folder of the data set, or of the one split of it, absolute.
        column: Of the audio.
        row: From 0.
    """

    path: str
    column: str
    row: int

    def open(self, name: str) -> AbstractContextManager[str | int]:
        """See `Place`."""
        return _open_cell(read_dataset_row(self.path, self.column, self.row, name), self.path, name)


@dataclass(frozen=True, slots=True)
class ParquetRow:
    """A row of a Parquet file with an audio column as `datasets` writes it.

    Attributes:
        path: Absolute.
        column: Of the audio.
        row: From 0.
    """

    path: str
    column: str
    row: int

    def open(self, name: str) -> AbstractContextManager[str | int]:
        """See `Place`."""
        return _open_cell(read_parquet_row(self.path, self.column, self.row, name), os.path.dirname(self.path), name)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """No place: what the listing of a corpus found damaged, so that it is told of where all bad audio is.

    Attributes:
        problem: What is wrong.
    """

    problem: str

    def open(self, name: str) -> AbstractContextManager[str | int]:
        """Raise what is wrong."""
        raise AudioFileError(f"{name}: {self.problem}")


@contextmanager
def _open_cell(cell: object, folder: str, name: str) -> Iterator[str | int]:
    """What an audio column holds: the bytes of a file, or else its path, relative to `folder` or absolute."""
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, None)
    if data is None:
        if path is None:
            raise AudioFileError(f"{name}: holds no audio")
        yield os.path.join(folder, path)
        return
    with tempfile.TemporaryFile() as copy:
        copy.write(data)
        copy.seek(0)
        yield copy.fileno()


# By what a line of JSON calls them.
PLACES: dict[str, type[Place]] = {
    "file": File,
    "archive": ArchiveMember,
    "dataset": DatasetRow,
    "parquet": ParquetRow,
    "unreadable": Unreadable,
}
