"""Reading bytes from anyone: never past their end, never unchecked."""

from struct import Struct
from typing import Any
from zlib import crc32

CHECKSUM = Struct("<I")


class BitstreamError(Exception):
    """Bytes that are no code stream; the message says at which byte, and what is wrong there."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(f"byte {position}: {message}")
        self.position = position
        self.message = message


def truncated(position: int, what: str, size: int, there: int) -> BitstreamError:
    """The error of a file that ends inside of something that has its own checksum."""
    message = f"truncated: {what} takes {size} bytes, of which {there} are there; the file is whole up to here"
    return BitstreamError(position, message)


class Cursor:
    """A place in bytes that only moves forward.

    Args:
        data: The bytes; nothing of them is copied.
        position: Of their first byte in the file that they are from.

    Attributes:
        position: Where the next byte is read.
    """

    def __init__(self, data: bytes | bytearray | memoryview, position: int = 0) -> None:
        self.position = position
        self._data = memoryview(data).cast("B")
        self._origin = position

    @property
    def remaining(self) -> int:
        """Bytes from here to the end."""
        return self._origin + len(self._data) - self.position

    def take(self, size: int, what: str) -> memoryview:
        """Move over `size` bytes and return them.

        Raises:
            BitstreamError: The end comes before that.
        """
        if size > self.remaining:
            message = f"truncated: {what} takes {size} bytes, of which {self.remaining} are there"
            raise BitstreamError(self.position, message)
        taken = self._slice(self.position, self.position + size)
        self.position += size
        return taken

    def read(self, layout: Struct, what: str) -> tuple[Any, ...]:
        """Move over a structure and return its fields."""
        return layout.unpack(self.take(layout.size, what))

    def read_varint(self, what: str) -> int:
        """Move over an integer that `varint` wrote.

        Raises:
            BitstreamError: It is 2 ** 63 or more, or takes more bytes than it has to.
        """
        start, value = self.position, 0
        for shift in range(0, 63, 7):
            byte = self.take(1, what)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise BitstreamError(start, f"{what} must be written in as few bytes as it needs")
                return value
        raise BitstreamError(start, f"{what} must be below 2 ** 63")

    def read_checksum(self, start: int, what: str) -> None:
        """Move over the CRC32 of all bytes from `start` to here.

        Raises:
            BitstreamError: The bytes have another one.
        """
        computed = crc32(self._slice(start, self.position))
        (stored,) = self.read(CHECKSUM, f"checksum of {what}")
        if stored != computed:
            raise BitstreamError(start, f"{what} is damaged: its checksum must be {stored:08x}; got {computed:08x}")

    def _slice(self, start: int, end: int) -> memoryview:
        return self._data[start - self._origin : end - self._origin]


def varint(value: int) -> bytes:
    """Write an integer below 2 ** 63, 7 bits a byte, the lowest first; all bytes but the last have bit 7 set."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def append_checksum(data: bytes) -> bytes:
    """Add what `Cursor.read_checksum` checks."""
    return data + CHECKSUM.pack(crc32(data))
