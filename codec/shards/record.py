"""The record of a finished shard: what was made of its clips, and the sums of its files. It is written last."""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codec.settings import settings_from
from codec.whole import checksum, write_whole

_RECORD = re.compile(r"shard-(\d{5,})\.json", re.ASCII)


@dataclass(frozen=True)
class FileSum:
    """A file as it was written: name, size in bytes, and SHA-256 in hexadecimal digits."""

    name: str
    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "FileSum":
        """As it is now."""
        return cls(path.name, path.stat().st_size, checksum(path))


@dataclass(frozen=True)
class BadClip:
    """A clip of which no codes could be made, and why."""

    id: str
    source: str
    problem: str


@dataclass(frozen=True)
class ShardRecord:
    """What is in a finished shard.

    Attributes:
        index: Of the shard, from 0.
        clips: Rows.
        seconds: Of the original audio.
        frames: Of all clips.
        files: All but the record.
        errors: Clips without a row.
        counts: How often each stage has each code, [num_quantizers, codebook_size].
    """

    index: int
    clips: int
    seconds: float
    frames: int
    files: tuple[FileSum, ...]
    errors: tuple[BadClip, ...]
    counts: tuple[tuple[int, ...], ...]


class Records(NamedTuple):
    """Those of all shards.

    Attributes:
        shards: In their order, without counts: those of thousands of shards would be gigabytes.
        counts: Of all shards, [num_quantizers, codebook_size].
    """

    shards: list[ShardRecord]
    counts: NDArray[np.int64]


def shard_name(index: int) -> str:
    """Of the files of a shard, without the suffix."""
    return f"shard-{index:05d}"


def record_path(folder: Path, index: int) -> Path:
    """Where the record of a shard is, if the shard is finished."""
    return folder / f"{shard_name(index)}.json"


def finished_shards(folder: Path) -> list[int]:
    """Indices of the shards that have a record."""
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _RECORD.fullmatch(path.name)))


def is_finished(folder: Path, index: int) -> bool:
    """Whether a shard has a record, and the files that this lists, of the same sizes."""
    try:
        files = load_record(folder, index).files
        return all((folder / file.name).stat().st_size == file.size for file in files)
    except (ValueError, FileNotFoundError):
        return False


def forget_shard(folder: Path, index: int) -> None:
    """Let a shard be one that is still to be made. Its files stay until others replace them."""
    record_path(folder, index).unlink(missing_ok=True)


def write_record(folder: Path, record: ShardRecord) -> None:
    """Say that a shard is finished. Its files must be there."""
    write_whole(record_path(folder, record.index), (json.dumps(asdict(record)) + "\n").encode())


def load_record(folder: Path, index: int) -> ShardRecord:
    """Read the record of a finished shard.

    Raises:
        ValueError: It cannot be read, or is none.
    """
    path = record_path(folder, index)
    table = load_object(path)
    counts: Any = table.get("counts")
    if _is_table(counts):
        # Thousands of numbers, which need not be looked at one by one.
        table["counts"] = []
    try:
        record = settings_from(table, ShardRecord)
        if not record.counts:
            record = replace(record, counts=tuple(map(tuple, counts)))
        if record.index != index:
            raise ValueError(f"index must be {index}; got {record.index}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return record


def load_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ValueError: It cannot be read, or holds something else.
    """
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    # The second is for thousands of brackets, one in the other.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{path}: must hold a JSON object; got {type(table).__name__}")
    return table


def _is_table(counts: object) -> bool:
    """Whether they are rows of the same length of numbers that fit int64."""
    try:
        found = np.array(counts)
    except ValueError:
        return False
    return found.ndim == 2 and found.dtype == np.int64
