"""Checking a file of codes without its model."""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.order import MAX_PROBLEMS
from codec.bitstream.reader import StreamReader
from codec.bitstream.stream import Header


@dataclass(frozen=True)
class Verification:
    """What a file of codes holds, and what is wrong with it.

    Attributes:
        header: As `StreamReader.header`.
        version: Of the file format.
        length: Samples per channel of the original audio. None: the file does not say it, or no longer.
        num_chunks: Chunks that are whole.
        num_frames: Frames that are in them, per channel.
        payload_bytes: Bytes of their codes alone.
        problems: What is wrong: first what costs frames, then what does not. Of each the first hundred.
    """

    header: Header
    version: int
    length: int | None
    num_chunks: int
    num_frames: int
    payload_bytes: int
    problems: list[str]


def verify(file: BinaryIO) -> Verification:
    """Check a file to its end, through all damage.

    Of entropy-coded chunks the checksums are checked, but not the codes, which would take the tables of their model.

    Args:
        file: Any binary file, also a pipe. The stream begins where it stands.

    Raises:
        BitstreamError: This is no file of codes, or its header is damaged and cannot be repaired.
    """
    reader = StreamReader(file, conceal=True)
    header = reader.header
    reader.use(_Unread(header.entropy))
    num_chunks, num_frames = 0, 0
    problems: list[str] = []
    for chunk in reader.chunks():
        if chunk.codes is None:
            problems += [chunk.problem or ""][: MAX_PROBLEMS - len(problems)]
            continue
        num_chunks += 1
        num_frames += chunk.num_frames
    return Verification(
        header=header,
        version=reader.version,
        length=reader.length,
        num_chunks=num_chunks,
        num_frames=num_frames,
        payload_bytes=reader.payload_bytes,
        problems=[*problems, *reader.problems],
    )


class _Unread:
    """Stands for the coder of chunks that nobody can decode here.

    Args:
        fingerprint: Of the tables that it would take.
    """

    def __init__(self, fingerprint: str | None) -> None:
        self.fingerprint = fingerprint

    def encode(self, codes: NDArray[np.integer]) -> bytes:
        raise NotImplementedError("nothing is written here")

    def decode(self, payload: bytes, channels: int, num_quantizers: int, frames: int) -> NDArray[np.int64]:
        return np.broadcast_to(np.int64(0), (channels, num_quantizers, frames))
