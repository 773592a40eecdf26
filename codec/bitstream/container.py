"""Files of codes: magic, version, and the table of versions that can be read.

Every version starts with the same 6 bytes; what follows is up to its module. Old versions stay readable.
"""

from struct import Struct
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from codec.bitstream import version_1
from codec.bitstream.cursor import BitstreamError, Cursor
from codec.bitstream.stream import Header, Stream

MAGIC = b"RVQC"
NUMBER = Struct("<H")


class Version(Protocol):
    """What the module of a version offers."""

    def write(self, stream: Stream, prefix: bytes) -> bytes: ...

    def read_header(self, cursor: Cursor) -> Header: ...

    def read_codes(self, cursor: Cursor, header: Header) -> NDArray[np.int64]: ...


VERSIONS: dict[int, Version] = {1: version_1}
WRITTEN_VERSION = 1


def write_stream(stream: Stream) -> bytes:
    """Turn codes into a file.

    Raises:
        ValueError: A code is negative, or needs more bits than the header says.
    """
    return VERSIONS[WRITTEN_VERSION].write(stream, MAGIC + NUMBER.pack(WRITTEN_VERSION))


def read_stream(data: bytes | memoryview) -> Stream:
    """Turn a file into codes, checking every byte of it.

    Memory stays in proportion to `data`, whatever its header claims.

    Raises:
        BitstreamError: Anything is wrong: another kind of file, an unknown version, damage, truncation, bytes left.
    """
    cursor = Cursor(data)
    version = _read_version(cursor)
    header = version.read_header(cursor)
    return Stream(header, version.read_codes(cursor, header))


def read_header(data: bytes | memoryview) -> Header:
    """Read the header alone; what follows it may be damaged or missing.

    Raises:
        BitstreamError: The header is wrong.
    """
    cursor = Cursor(data)
    return _read_version(cursor).read_header(cursor)


def _read_version(cursor: Cursor) -> Version:
    magic = bytes(cursor.take(len(MAGIC), "magic number"))
    if magic != MAGIC:
        raise BitstreamError(0, f"not a file of codes: it must start with {MAGIC!r}; got {magic!r}")
    (number,) = cursor.read(NUMBER, "version number")
    if number not in VERSIONS:
        known = ", ".join(map(str, VERSIONS))
        raise BitstreamError(len(MAGIC), f"version must be one of {known}; got {number}")
    return VERSIONS[number]
