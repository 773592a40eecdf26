"""Version 1 of the file format: packed codes in chunks.

Little-endian, without padding. The header starts with what all versions share (see `container`):

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
num_quantizers]. The file ends with its last chunk.
"""

from collections.abc import Iterator
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.cursor import CHECKSUM, BitstreamError, Cursor, append_checksum
from codec.bitstream.packing import pack, packed_size, unpack
from codec.bitstream.stream import Header, Stream

FIELDS = Struct("<8sIHQHBQIB")
CHUNK = Struct("<I")


def write(stream: Stream, prefix: bytes) -> bytes:
    """Turn a stream into a file.

    Args:
        stream: What to write.
        prefix: Magic and version.

    Raises:
        ValueError: A code is negative, or needs more bits than the header says.
    """
    return b"".join([_header_bytes(stream.header, prefix), *_chunks_bytes(stream)])


def read_header(cursor: Cursor) -> Header:
    """Read and check a header; the cursor, past magic and version, moves to the first chunk."""
    *fields, name_size = cursor.read(FIELDS, "header")
    name = bytes(cursor.take(name_size, "model name"))
    cursor.read_checksum(0, "header")
    fingerprint, *numbers = fields
    try:
        return Header(name.decode(), fingerprint.hex(), *numbers)
    except ValueError as error:
        raise BitstreamError(0, f"header is wrong: {error}") from error


def read_codes(cursor: Cursor, header: Header) -> NDArray[np.int64]:
    """Read and check all chunks, up to the end of the file.

    Returns:
        [channels, num_quantizers, num_frames].
    """
    _check_size(cursor, header)
    # Not before this line: until then the header's numbers are claims, from here on the bytes are there.
    codes = np.empty((header.channels, header.num_quantizers, header.num_frames), dtype=np.int64)
    for index, start in enumerate(range(0, header.num_frames, header.frames_per_chunk)):
        frames = min(header.frames_per_chunk, header.num_frames - start)
        codes[:, :, start : start + frames] = _read_chunk(cursor, header, frames, f"chunk {index}")
    return codes


def _header_bytes(header: Header, prefix: bytes) -> bytes:
    name = header.model.encode()
    fields = FIELDS.pack(
        bytes.fromhex(header.fingerprint),
        header.sample_rate,
        header.channels,
        header.length,
        header.num_quantizers,
        header.bits,
        header.num_frames,
        header.frames_per_chunk,
        len(name),
    )
    return append_checksum(prefix + fields + name)


def _chunks_bytes(stream: Stream) -> Iterator[bytes]:
    size = stream.header.frames_per_chunk
    for start in range(0, stream.header.num_frames, size):
        codes = stream.codes[:, :, start : start + size]
        payload = pack(codes.transpose(2, 0, 1), stream.header.bits)
        yield append_checksum(CHUNK.pack(codes.shape[2]) + payload)


def _payload_size(header: Header, frames: int) -> int:
    return packed_size(header.bits, frames * header.channels * header.num_quantizers)


def _check_size(cursor: Cursor, header: Header) -> None:
    # In closed form, because the header may claim 2 ** 60 chunks.
    around = CHUNK.size + CHECKSUM.size
    full, rest = divmod(header.num_frames, header.frames_per_chunk)
    size = full * (around + _payload_size(header, header.frames_per_chunk))
    if rest:
        size += around + _payload_size(header, rest)
    if size > cursor.remaining:
        message = f"truncated: all chunks take {size} bytes, of which {cursor.remaining} are there"
        raise BitstreamError(len(cursor.data), message)
    if size < cursor.remaining:
        message = f"the file must end with its last chunk; got {cursor.remaining - size} bytes more"
        raise BitstreamError(cursor.position + size, message)


def _read_chunk(cursor: Cursor, header: Header, frames: int, what: str) -> NDArray[np.int64]:
    start = cursor.position
    (claimed,) = cursor.read(CHUNK, what)
    payload = cursor.take(_payload_size(header, frames), what)
    cursor.read_checksum(start, what)
    if claimed != frames:
        raise BitstreamError(start, f"{what} must have {frames} frames; got {claimed}")
    try:
        codes = unpack(payload, header.bits, frames * header.channels * header.num_quantizers)
    except ValueError as error:
        raise BitstreamError(start, f"{what} is wrong: {error}") from error
    return codes.reshape(frames, header.channels, header.num_quantizers).transpose(1, 2, 0)
