"""Chunks as they stand in a file, in any version: their codes not decoded, their order not checked."""

from typing import NamedTuple

from codec.bitstream.stream import Header


class Piece(NamedTuple):
    """A chunk whose checksum fits.

    Attributes:
        position: Of its first byte in the file.
        number: Of the chunk, from 0.
        frames: In this chunk.
        payload: Its codes.
        packed: Whether they are packed, also in a file of entropy-coded chunks.
    """

    position: int
    number: int
    frames: int
    payload: bytes
    packed: bool


def chunk_name(header: Header, number: int) -> str:
    """What errors call a chunk: its number, and where it begins if the file says how long frames are."""
    if header.frame_rate is None:
        return f"chunk {number}"
    return f"chunk {number} (at {number * header.frames_per_chunk / header.frame_rate:.2f} s)"
