"""Whole files of codes in memory."""

from dataclasses import replace
from io import BytesIO

import numpy as np

from codec.bitstream.opening import read_opening
from codec.bitstream.packing import ChunkCoder
from codec.bitstream.reader import StreamReader
from codec.bitstream.stream import Header, Stream
from codec.bitstream.window import Window
from codec.bitstream.writer import StreamWriter


def write_stream(stream: Stream, coder: ChunkCoder | None = None) -> bytes:
    """Turn codes into a file of the latest version.

    Args:
        stream: Its header knows the length.
        coder: What turns chunks to bytes. Default: `Packed`.

    Raises:
        ValueError: A code is negative, or needs more bits than the header says; or the header does not know its length,
            or names another coder.
    """
    if stream.header.length is None:
        raise ValueError("header must know the length of a whole stream; got None")
    file = BytesIO()
    writer = StreamWriter(file, stream.header, coder)
    writer.write(stream.codes)
    writer.close(stream.header.length)
    return file.getvalue()


def read_stream(data: bytes | bytearray | memoryview, coder: ChunkCoder | None = None) -> Stream:
    """Turn a file of any version into codes, checking every byte of it.

    Memory stays in proportion to `data`, whatever its header claims.

    Returns:
        With the length in its header, also if the file was of unknown length at first.

    Raises:
        BitstreamError: Anything is wrong: another kind of file, an unknown version, damage, truncation, bytes left.
        RuntimeError: The codes are entropy-coded, and there is no `coder`.
        ValueError: The codes are entropy-coded with other tables than those of `coder`.
    """
    reader = StreamReader(BytesIO(data), coder)
    codes = [chunk.codes for chunk in reader.chunks() if chunk.codes is not None]
    header = replace(reader.header, length=reader.length, num_frames=reader.num_frames)
    return Stream(header, np.concatenate(codes, axis=-1))


def read_header(data: bytes | bytearray | memoryview) -> Header:
    """Read the header alone; what follows it may be damaged or missing.

    Raises:
        BitstreamError: The header is wrong.
    """
    _, header = read_opening(Window(BytesIO(data)))
    return header
