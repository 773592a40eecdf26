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


class Cursor:
    """A place in bytes that only moves forward.

    Attributes:
        data: All the bytes; nothing of them is copied.
        position: Where the next byte is read.
    """

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self.data = memoryview(data).cast("B")
        self.position = 0

    @property
    def remaining(self) -> int:
        """Bytes from here to the end."""
        return len(self.data) - self.position

    def take(self, size: int, what: str) -> memoryview:
        """Move over `size` bytes and return them.

        Raises:
            BitstreamError: The end comes before that.
        """
        if size > self.remaining:
            message = f"truncated: {what} takes {size} bytes, of which {self.remaining} are there"
            raise BitstreamError(self.position, message)
        taken = self.data[self.position : self.position + size]
        self.position += size
        return taken

    def read(self, layout: Struct, what: str) -> tuple[Any, ...]:
        """Move over a structure and return its fields."""
        return layout.unpack(self.take(layout.size, what))

    def read_checksum(self, start: int, what: str) -> None:
        """Move over the CRC32 of all bytes from `start` to here.

        Raises:
            BitstreamError: The bytes have another one.
        """
        computed = crc32(self.data[start : self.position])
        (stored,) = self.read(CHECKSUM, f"checksum of {what}")
        if stored != computed:
            raise BitstreamError(start, f"{what} is damaged: its checksum must be {stored:08x}; got {computed:08x}")


def append_checksum(data: bytes) -> bytes:
    """Add what `Cursor.read_checksum` checks."""
    return data + CHECKSUM.pack(crc32(data))
