"""Finding the one byte of a header that is damaged."""

from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple
from zlib import crc32

import numpy as np

from codec.bitstream import version_1, version_2
from codec.bitstream.cursor import CHECKSUM, BitstreamError
from codec.bitstream.opening import VERSION, read_opening
from codec.bitstream.stream import MAGIC, Header
from codec.bitstream.window import Window

# One of so many changes may fit by chance: of a header of this size once in 16,000 damaged ones.
MAX_SIZE = 1024
# Whatever the version, no header is shorter.
START = version_1.FIELDS.size
# The bytes that say how long a header is.
SIZE_PLACES = {version_1.NUMBER: [START - 1], version_2.NUMBER: [6, 7, 8, 9]}
# What a flipped byte does to a CRC32 is the same whatever the other bytes are.
CRC_TABLE = np.array([crc32(bytes([value])) ^ crc32(bytes(1)) for value in range(256)], dtype=np.uint32)


class Repaired(NamedTuple):
    """A header with one byte changed.

    Attributes:
        place: Of that byte.
        size: Bytes of the header.
        version: Of the file format.
        header: What it says.
    """

    place: int
    size: int
    version: int
    header: Header


def repair_header(data: bytes) -> Repaired | None:
    """Change the one byte that makes the checksum of a header fit.

    Args:
        data: The first bytes of a file, as many as `MAX_SIZE` if it has them.

    Returns:
        None if no byte does that, or more than one.
    """
    found = []
    for place, changed in _changed(data):
        try:
            window = Window(BytesIO(changed))
            version, header = read_opening(window)
        except BitstreamError:
            continue
        found.append(Repaired(place, window.position, version, header))
    return found[0] if len(found) == 1 else None


def _changed(data: bytes) -> Iterator[tuple[int, bytes]]:
    """All headers with a checksum that fits that differ from `data` in one byte, and the place of it."""
    for place, trial in _starts(data):
        size = _size(trial)
        if START < size <= len(trial) and _difference(trial, size) == 0:
            yield place, trial[:size]
    size = _size(data)
    if not START < size <= len(data) or (wanted := _difference(data, size)) == 0:
        return
    body = size - CHECKSUM.size
    for place in range(CHECKSUM.size):
        if not wanted & ~(0xFF << 8 * place):
            yield body + place, _flip(data[:size], body + place, wanted >> 8 * place)
    # What each change of the last byte does to the checksum; then of the byte before, which goes one step further.
    effects = CRC_TABLE
    for place in reversed(range(body)):
        for flipped in np.flatnonzero(effects == wanted):
            yield place, _flip(data[:size], place, int(flipped))
        effects = CRC_TABLE[effects & 0xFF] ^ effects >> 8


def _starts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Data with one byte changed that decides how long the header is, and the place of it."""
    for number, places in SIZE_PLACES.items():
        start = MAGIC + VERSION.pack(number)
        wrong = [place for place, byte in enumerate(start) if data[place : place + 1] != bytes([byte])]
        if len(wrong) == 1:
            yield wrong[0], start + data[len(start) :]
        elif not wrong:
            for place in places:
                yield from ((place, data[:place] + bytes([value]) + data[place + 1 :]) for value in range(256))


def _difference(data: bytes, size: int) -> int:
    """Between the checksum of a header and the one that stands there."""
    body = size - CHECKSUM.size
    return crc32(data[:body]) ^ int(CHECKSUM.unpack_from(data, body)[0])


def _flip(data: bytes, place: int, bits: int) -> bytes:
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


def _size(data: bytes) -> int:
    """Bytes of the header that begins so; 0 if none does."""
    if len(data) < START or not data.startswith(MAGIC):
        return 0
    (number,) = VERSION.unpack_from(data, len(MAGIC))
    versions = {version_1.NUMBER: version_1.header_size, version_2.NUMBER: version_2.header_size}
    return versions[number](data) if number in versions else 0
