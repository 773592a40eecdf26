"""Token ids in flat files with an index, for memory-mapped training.

shard-00000.bin is nothing but ids, little-endian, uint16 where the vocabulary fits and uint32 where it does not,
sequence after sequence and, where a step has several rows, step after step. shard-00000.idx says where each begins:

    4 bytes   RVQX
    uint32    version, 1
    uint32    bytes of an id, 2 or 4
    uint32    ids of a step (1, or num_quantizers)
    uint64    number of sequences
    int64 ... the first step of each sequence, and the number of all steps
"""

import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from codec.shards.manifest import load_manifest
from codec.shards.place import Places
from codec.shards.record import shard_name
from codec.tokens import CodecTokenizer
from codec.whole import whole_file, write_whole

_HEADER = struct.Struct("<4sIIIQ")
_MAGIC = b"RVQX"
_VERSION = 1
_ID_TYPES: dict[int, Any] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
# Each is an open file.
_MAPS_KEPT = 64


def write_tokens(
    path_stem: Path, sequences: Iterable[NDArray[np.integer[Any]]], width: int, vocab_size: int
) -> list[Path]:
    """Write the ids of clips into a .bin and an .idx; each is whole or as it was.

    Args:
        path_stem: Of both files, without the suffixes.
        sequences: Of each clip, [steps] where `width` is 1, else [width, steps]; one is in memory at a time.
        width: Ids of a step.
        vocab_size: All ids are below it.

    Returns:
        The files.

    Raises:
        ValueError: A sequence is of another shape, or an id is out of range.
        OSError: They cannot be written.
    """
    ids_path, index_path = _paths(path_stem)
    id_type = _ID_TYPES[2 if vocab_size <= 1 << 16 else 4]
    ends = [0]
    with whole_file(ids_path) as partial, partial.open("wb") as file:
        for sequence in sequences:
            steps = _by_step(sequence, width)
            if steps.size and not 0 <= steps.min() <= steps.max() < vocab_size:
                raise ValueError(f"ids must be from 0 to {vocab_size - 1}; got {steps.min()} to {steps.max()}")
            file.write(steps.astype(id_type).tobytes())
            ends.append(ends[-1] + len(steps))
    header = _HEADER.pack(_MAGIC, _VERSION, id_type.itemsize, width, len(ends) - 1)
    write_whole(index_path, header + np.array(ends, dtype="<i8").tobytes())
    return [ids_path, index_path]


class TokenIndex(NamedTuple):
    """What an .idx says of the .bin beside it.

    Attributes:
        id_type: Little-endian uint16 or uint32.
        width: Ids of a step.
        bounds: First step of each sequence, and the number of all steps, [sequences + 1], int64.
    """

    id_type: Any
    width: int
    bounds: NDArray[np.int64]


def read_index(path_stem: Path) -> TokenIndex:
    """Read and check the index of a token file.

    Raises:
        ValueError: It cannot be read, is damaged, or does not fit the .bin beside it.
    """
    ids_path, path = _paths(path_stem)
    try:
        size, ids_size = path.stat().st_size, ids_path.stat().st_size
        with path.open("rb") as file:
            id_type, width = _check_header(file.read(_HEADER.size), size)
            bounds = np.frombuffer(file.read(size - _HEADER.size), dtype="<i8").astype(np.int64, copy=False)
    except OSError as error:
        raise ValueError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not an index of tokens: {error}") from None
    if bounds[0] != 0 or (bounds[1:] < bounds[:-1]).any():
        raise ValueError(f"{path}: not an index of tokens: sequences must begin at 0, each where the last one ends")
    # In Python's numbers: those of a damaged file may be too large for int64.
    if (expected := int(bounds[-1]) * width * id_type.itemsize) != ids_size:
        raise ValueError(f"{ids_path}: must have {expected} bytes, as its index says; got {ids_size}")
    return TokenIndex(id_type, width, bounds)


class TokenFiles:
    """Token ids of all clips of a finished corpus, in the order of its input: views of memory-mapped files.

    It can be sent to other processes.

    Args:
        folder: That of the corpus.

    Attributes:
        tokenizer: What made them.
        num_steps: Of each sequence, [clips], int64.

    Raises:
        ValueError: The corpus is not finished, or its files are damaged or do not fit each other.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.tokenizer = CodecTokenizer.from_pretrained(self.folder)
        sizes = [shard.clips for shard in load_manifest(self.folder).shards]
        self._places = Places(sizes)
        self._indices = [self._read_index(shard, size) for shard, size in enumerate(sizes)]
        empty = np.zeros(0, dtype=np.int64)
        self.num_steps = np.concatenate([empty, *(np.diff(index.bounds) for index in self._indices)])
        self._map = lru_cache(_MAPS_KEPT)(self._open)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Ids of a clip: read-only, uint16 or uint32; [steps] where the tokenizer's width is 1, else [width, steps].

        Raises:
            IndexError: There is no such clip.
        """
        shard, clip = self._places.find(index)
        begin, end = self._indices[shard].bounds[clip : clip + 2]
        steps = self._map(shard)[begin:end]
        return steps[:, 0] if self.tokenizer.width == 1 else rearrange(steps, "step row -> row step")

    def _read_index(self, shard: int, size: int) -> TokenIndex:
        stem = self.folder / shard_name(shard)
        index = read_index(stem)
        expected, found = (size, self.tokenizer.width), (len(index.bounds) - 1, index.width)
        if found != expected:
            raise ValueError(f"{stem}.idx: sequences and ids of a step must be {expected}; got {found}")
        return index

    def _open(self, shard: int) -> NDArray[Any]:
        index = self._indices[shard]
        shape = int(index.bounds[-1]), index.width
        if shape[0] == 0:  # an empty file cannot be mapped
            return np.zeros(shape, dtype=index.id_type)
        path = self.folder / f"{shard_name(shard)}.bin"
        return np.memmap(path, dtype=index.id_type, mode="r", shape=shape).view(np.ndarray)


def _by_step(sequence: NDArray[np.integer[Any]], width: int) -> NDArray[np.integer[Any]]:
    rows = sequence[None] if width == 1 else sequence
    if rows.ndim != 2 or len(rows) != width:
        shape = "[steps]" if width == 1 else f"[{width}, steps]"
        raise ValueError(f"sequence must have shape {shape}; got {list(sequence.shape)}")
    return rearrange(rows, "row step -> step row")


def _check_header(header: bytes, size: int) -> tuple[Any, int]:
    """Type of an id and ids of a step, once the bounds are seen to fill the rest of the file."""
    if len(header) < _HEADER.size:
        raise ValueError(f"it must have at least {_HEADER.size} bytes; got {len(header)}")
    magic, version, id_size, width, count = _HEADER.unpack(header)
    if magic != _MAGIC:
        raise ValueError(f"it must begin with {_MAGIC!r}; got {magic!r}")
    if version != _VERSION:
        raise ValueError(f"version must be {_VERSION}; got {version}")
    if id_size not in _ID_TYPES or width == 0:
        raise ValueError(f"ids must have 2 or 4 bytes, and a step at least one id; got {id_size}, {width}")
    if size != (expected := _HEADER.size + 8 * (count + 1)):
        raise ValueError(f"it must have {expected} bytes for {count} sequences; got {size}")
    return _ID_TYPES[id_size], width


def _paths(stem: Path) -> tuple[Path, Path]:
    return stem.with_suffix(".bin"), stem.with_suffix(".idx")
