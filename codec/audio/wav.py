"""The bytes before the samples of a WAV file: RIFF, and RF64 for what is longer (EBU Tech 3306)."""

import struct
from collections.abc import Callable
from typing import NamedTuple

# Chunks before the samples: tags, a picture. What takes more is not looked through.
MAX_START_BYTES = 1 << 24
# The sizes in a WAV file are 32-bit numbers of bytes.
OPEN_SIZE = (1 << 32) - 1
# Programs that write to a pipe cannot know the size and write 0, or almost as much as 32 or 31 bits hold: 0xFFFFFFFF
# (ffmpeg), 0x7FFFF000 (sox), 0x7FFFFF00 (arecord).
OPEN_MARGIN = 1 << 16
MAX_RIFF_BYTES = OPEN_SIZE - OPEN_MARGIN - 80
# No file has so many, and each takes a read.
MAX_CHUNKS = 1000
PCM = 1
BITS = 16
LONG_HEADER_BYTES = 80


class WavStart(NamedTuple):
    """The first bytes of a file.

    Attributes:
        data: All that were read: up to the first sample, if it is a WAV file.
        audio_bytes: Size of the samples according to the header; None if this is no WAV file.
    """

    data: bytes
    audio_bytes: int | None

    @property
    def has_open_end(self) -> bool:
        """Whether the size is one that stands for an unknown one."""
        size = self.audio_bytes
        return size == 0 or (size is not None and size < 1 << 32 and -size % (1 << 31) <= OPEN_MARGIN)


def read_wav_start(read: Callable[[int], bytes]) -> WavStart:
    """Read a file up to the samples if it is RIFF or RF64 WAV, and its first 12 bytes or more if it is not.

    Args:
        read: Gives as many bytes as asked for, and fewer only at the end.
    """
    data = bytearray(read(12))
    if not data.startswith((b"RIFF", b"RF64")) or data[8:] != b"WAVE":
        return WavStart(bytes(data), None)
    long_size = None
    while len(data) < MAX_START_BYTES:
        head = read(8)
        data += head
        if len(head) < 8:
            break
        identity, size = struct.unpack("<4sI", head)
        if identity == b"data":
            return WavStart(bytes(data), long_size if long_size is not None and size == OPEN_SIZE else size)
        if len(data) + size > MAX_START_BYTES:
            break
        content = read(size + size % 2)  # chunks begin at even places
        data += content
        if identity == b"ds64" and len(content) >= 16:
            long_size = struct.unpack_from("<Q", content, 8)[0]
    return WavStart(bytes(data), None)


def ends_with_chunks(read_at: Callable[[int, int], bytes], start: int, end: int) -> bool:
    """Whether all of a file from one place to its end is RIFF chunks, such as tags.

    Args:
        read_at: Gives so many bytes from such a place on, fewer at the end.
        start: Where the first chunk begins.
        end: Where the file ends.
    """
    for _ in range(MAX_CHUNKS):
        if start >= end:
            break
        head = read_at(8, start)
        # Names are printable; silence, which may be gigabytes, is not to be taken for chunks of no bytes.
        if len(head) < 8 or not all(0x20 <= letter < 0x7F for letter in head[:4]):
            return False
        size = int.from_bytes(head[4:], "little")
        start += 8 + size + (size % 2 if start + 8 + size < end else 0)
    return start == end


def wav_header(sample_rate: int, channels: int, length: int | None, *, long: bool = False) -> bytes:
    """Write the header of a 16-bit WAV file.

    Args:
        sample_rate: Hz.
        channels: How many.
        length: Samples of each channel. None: not known, which sizes of 0xFFFFFFFF stand for.
        long: Take 80 bytes instead of 44, so that the header of any other length can replace this one. Those of lengths
            beyond 4 GiB, which RF64 holds, take 80 in any case.
    """
    frame_bytes = BITS // 8 * channels
    fmt = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, PCM, channels, sample_rate, sample_rate * frame_bytes, frame_bytes, BITS
    )
    magic, sizes = b"RIFF", struct.pack("<4sI28x", b"JUNK", 28) if long else b""
    riff_size = data_size = OPEN_SIZE
    if length is not None and length * frame_bytes > MAX_RIFF_BYTES:
        size = length * frame_bytes
        magic, sizes = b"RF64", struct.pack("<4sIQQQI", b"ds64", 28, LONG_HEADER_BYTES - 8 + size, size, length, 0)
    elif length is not None:
        data_size = length * frame_bytes
        riff_size = 4 + len(sizes) + len(fmt) + 8 + data_size
    return struct.pack("<4sI4s", magic, riff_size, b"WAVE") + sizes + fmt + struct.pack("<4sI", b"data", data_size)
