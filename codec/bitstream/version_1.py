"""Version 1 of the file format, which is still read: packed codes in chunks.

Little-endian, without padding. The header starts with what all versions share (see `opening`):

    offset  bytes  field
         0      4  magic, "RVQC"
         4      2  version, 1
         6      8  fingerprint of the model's weights
        14      4  sample_rate
        18      2  channels
        20      8  length, samples per channel
        28      2  num_quantizers
        30      1  bits per code
        31      8  num_frames, per channel
        39      4  frames_per_chunk
        43      1  n, bytes of the model's name
        44      n  the model's name, UTF-8
    44 + n      4  CRC32 of all bytes before

Then come ceil(num_frames / frames_per_chunk) chunks, each readable without the others; only the last may be shorter:

         0      4  frames in this chunk
         4      p  codes, packed (see `packing`); p = ceil(frames * channels * num_quantizers * bits / 8)
     4 + p      4  CRC32 of the chunk's bytes before

In a chunk the stages of a frame stand together, and the channels of a frame: the order is [frames, channels,
num_quantizers]. The file ends with its last chunk. A damaged chunk leaves the others where they are; a missing one
makes all that follow unreadable, since nothing tells them apart.
"""

from collections.abc import Iterator
from struct import Struct

from codec.bitstream.cursor import CHECKSUM, BitstreamError, Cursor, truncated
from codec.bitstream.order import Order
from codec.bitstream.packing import packed_size
from codec.bitstream.piece import Piece, chunk_name
from codec.bitstream.stream import Header
from codec.bitstream.window import Window

NUMBER = 1
FIELDS = Struct("<6x8sIHQHBQIB")
CHUNK = Struct("<I")


def read_header(window: Window) -> Header:
    """Read and check a header, and move to the first chunk.

    Raises:
        BitstreamError: It is damaged, or wrong in itself.
    """
    start = window.position
    *fields, name_size = Cursor(window.peek(FIELDS.size), start).read(FIELDS, "header")
    cursor = Cursor(window.peek(FIELDS.size + name_size + CHECKSUM.size), start)
    cursor.take(FIELDS.size, "header")
    name = bytes(cursor.take(name_size, "model name"))
    cursor.read_checksum(start, "header")
    fingerprint, *numbers = fields
    try:
        header = Header(name.decode(), fingerprint.hex(), *numbers)
    except ValueError as error:
        raise BitstreamError(start, f"header is wrong: {error}") from error
    window.skip(cursor.position - start)
    return header


def header_size(data: bytes) -> int:
    """Bytes that a header takes, from its first ones: at least `FIELDS.size`."""
    return FIELDS.size + data[FIELDS.size - 1] + CHECKSUM.size


def find_chunk(header: Header, number: int) -> tuple[int, int]:
    """Number of a chunk, or of the last one if there are not so many; and the bytes from the first chunk to there."""
    assert header.num_chunks is not None
    number = min(number, header.num_chunks - 1)
    return number, number * _chunk_size(header, header.frames_per_chunk)


def scan(window: Window, header: Header, order: Order, first: int) -> Iterator[Piece]:
    """Read chunks to the end of the file.

    Args:
        window: Stands where chunk `first` begins.
        header: Of the file.
        order: Is told what is wrong.
        first: Number of a chunk.
    """
    for number in range(first, header.num_chunks or 0):
        frames = header.frames_in(number)
        size = _chunk_size(header, frames)
        data = window.peek(size)
        try:
            if len(data) < size:
                raise truncated(window.position, chunk_name(header, number), size, len(data))
            yield _read_chunk(data, window.position, number, frames, chunk_name(header, number))
        except BitstreamError as error:
            order.report(error)
        if len(data) < size:
            return
        window.skip(size)
    if window.peek(1):
        order.report(BitstreamError(window.position, "the file must end with its last chunk; got more bytes"))


def _read_chunk(data: bytes, position: int, number: int, frames: int, what: str) -> Piece:
    cursor = Cursor(data, position)
    (claimed,) = cursor.read(CHUNK, what)
    payload = bytes(cursor.take(len(data) - CHUNK.size - CHECKSUM.size, what))
    cursor.read_checksum(position, what)
    if claimed != frames:
        raise BitstreamError(position, f"{what} must have {frames} frames; got {claimed}")
    return Piece(position, number, frames, payload, packed=True)


def _chunk_size(header: Header, frames: int) -> int:
    return CHUNK.size + packed_size(header.bits, header.codes_in(frames)) + CHECKSUM.size
