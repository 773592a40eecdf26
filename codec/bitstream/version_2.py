"""Version 2 of the file format: what each of its parts looks like. `docs/format.md` has every byte.

The header stands at the start, and once more in the end block of a file of many chunks:

    offset  bytes  field
         0      4  magic, "RVQC"
         4      2  version, 2
         6      4  n, bytes of the fields
        10      n  fields
    10 + n      4  CRC32 of all bytes before

Chunks and the end block are blocks (see `block`). The body of a chunk is its number, the frames in it, and its codes;
the body of the end block is what `End` holds. Behind it stand its size and the closing magic, to find it from there.
"""

from array import array
from dataclasses import replace
from io import BytesIO
from struct import Struct
from typing import NamedTuple

from codec.bitstream.block import CHUNK, END, PACKED_CHUNK, Block, block
from codec.bitstream.cursor import CHECKSUM, BitstreamError, Cursor, append_checksum, varint
from codec.bitstream.packing import packed_size
from codec.bitstream.piece import Piece
from codec.bitstream.stream import MAGIC, MAX_NAME_BYTES, Header
from codec.bitstream.tags import MAX_KEY_BYTES, MAX_TAGS, MAX_VALUE_BYTES
from codec.bitstream.window import Window

NUMBER = 2
PREFIX = Struct("<4sHI")
FIELDS = Struct("<8sIHQHBQIIIB8s")
SHORT, LONG = Struct("<B"), Struct("<H")
UNKNOWN = 0
PACKED, ENTROPY = 0, 1
NO_TABLES = bytes(8)
CLOSING = Struct("<I4s")
CLOSING_MAGIC = b"CQVR"

MAX_FIELDS = FIELDS.size + 1 + MAX_NAME_BYTES + 1 + MAX_TAGS * (1 + MAX_KEY_BYTES + 2 + MAX_VALUE_BYTES)
MAX_CHUNKS = 1 << 32
# Bytes of the number of a chunk, and of the count of its frames.
MAX_CHUNK_NUMBERS = 10
# Bytes of a varint that others follow.
CONTINUED = bytes(range(0x80, 0x100))
# An index of more chunks (24 days of 2 s) would only take memory: behind the last one that it has, chunks are searched.
MAX_INDEX = 1 << 20
# A copy of the header would make shorter files longer by some percent.
CHUNKS_WITHOUT_COPY = 16
MAX_END = 40 + PREFIX.size + MAX_FIELDS + CHECKSUM.size + 5 * MAX_INDEX


class End(NamedTuple):
    """What the end block says.

    Attributes:
        position: Of its first byte in the file.
        num_frames: Of all chunks.
        length: Samples per channel of the original audio.
        header: Copy of the header, with everything in it that was not known at first; None in files of few chunks.
        coded_sizes: Bytes of each chunk with all that is around it, of the first 2 ** 20 chunks: see `read_index`.
    """

    position: int
    num_frames: int
    length: int
    header: Header | None
    coded_sizes: bytes


def write_header(header: Header) -> bytes:
    """The start of a file."""
    fields = FIELDS.pack(
        bytes.fromhex(header.fingerprint),
        header.sample_rate,
        header.channels,
        header.length or UNKNOWN,
        header.num_quantizers,
        header.bits,
        header.num_frames or UNKNOWN,
        header.frames_per_chunk,
        header.model_rate or UNKNOWN,
        header.hop_length or UNKNOWN,
        PACKED if header.entropy is None else ENTROPY,
        NO_TABLES if header.entropy is None else bytes.fromhex(header.entropy),
    )
    tags = [_text(key, SHORT) + _text(value, LONG) for key, value in header.tags.items()]
    fields = b"".join([fields, _text(header.model, SHORT), SHORT.pack(len(tags)), *tags])
    return append_checksum(PREFIX.pack(MAGIC, NUMBER, len(fields)) + fields)


def read_header(window: Window) -> Header:
    """Read and check a header, and move to the first chunk.

    Raises:
        BitstreamError: It is damaged, or wrong in itself.
    """
    start = window.position
    *_, size = Cursor(window.peek(PREFIX.size), start).read(PREFIX, "header")
    if size > MAX_FIELDS:
        raise BitstreamError(start, f"header must have at most {MAX_FIELDS} bytes of fields; got {size}")
    cursor = Cursor(window.peek(PREFIX.size + size + CHECKSUM.size), start)
    cursor.take(PREFIX.size, "header")
    fields = Cursor(cursor.take(size, "header"), cursor.position - size)
    cursor.read_checksum(start, "header")
    try:
        header = _read_fields(fields)
    except ValueError as error:
        raise BitstreamError(start, f"header is wrong: {error}") from error
    window.skip(cursor.position - start)
    return header


def header_size(data: bytes) -> int:
    """Bytes that a header takes, from its first ones: at least `PREFIX.size`."""
    return PREFIX.size + int(PREFIX.unpack_from(data)[2]) + CHECKSUM.size


def write_chunk(number: int, frames: int, payload: bytes, *, kind: bytes = CHUNK) -> bytes:
    """A chunk as it stands in the file."""
    return block(kind, varint(number) + varint(frames) + payload)


def read_chunk(found: Block, header: Header) -> Piece:
    """The chunk in a block.

    Raises:
        BitstreamError: Its number, or the count of its frames, is none.
    """
    cursor = found.cursor()
    number = cursor.read_varint("number of a chunk")
    frames = cursor.read_varint("frames of a chunk")
    payload = bytes(cursor.take(cursor.remaining, "codes"))
    return Piece(found.position, number, frames, payload, header.entropy is None or found.kind == PACKED_CHUNK)


def write_end(header: Header, sizes: "array[int]") -> bytes:
    """The end block, and what stands behind it.

    Args:
        header: With everything known.
        sizes: Of all chunks.
    """
    assert header.num_frames
    assert header.length
    copy = write_header(header) if len(sizes) > CHUNKS_WITHOUT_COPY else b""
    numbers = [header.num_frames, header.length, len(copy)]
    end = block(END, b"".join([*map(varint, numbers), copy, write_index(sizes)]))
    return end + CLOSING.pack(len(end), CLOSING_MAGIC)


def read_end(found: Block, header: Header | None) -> End:
    """What an end block says.

    Args:
        found: The block.
        header: Of the file; None: damaged, so that its copy is needed.

    Raises:
        BitstreamError: It holds no frames, no length, not a size for each chunk, or no copy of the header that is
            needed or that says the same as the header.
    """
    cursor = found.cursor()
    num_frames = cursor.read_varint("number of frames")
    length = cursor.read_varint("length")
    copy = cursor.take(cursor.read_varint("size of the copy of the header"), "copy of the header")
    known = read_header(Window(BytesIO(copy))) if copy else None
    header = header or known
    if header is None or not num_frames or not length:
        raise BitstreamError(found.position, "end block must hold frames, samples, and a header if the file has none")
    try:
        header = replace(header, num_frames=num_frames, length=length)
    except ValueError as error:  # more frames than the header says may make chunks longer than any can be
        raise BitstreamError(found.position, f"end block is wrong: {error}") from error
    if known not in (None, header):
        raise BitstreamError(found.position, "the copy of the header must say the same as the header")
    index = bytes(cursor.take(cursor.remaining, "index"))
    indexed = min(-(-num_frames // header.frames_per_chunk), MAX_INDEX)
    # To read all of it takes long, and is left to those who need it.
    if (count := len(index.translate(None, CONTINUED))) != indexed or index[-1] in CONTINUED:
        raise BitstreamError(found.position, f"end block must end with the sizes of {indexed} chunks; got {count}")
    return End(found.position, num_frames, length, known, index)


def write_index(sizes: "array[int]") -> bytes:
    """The index of chunks of these sizes."""
    return b"".join(map(varint, sizes[:MAX_INDEX]))


def read_index(end: End) -> "array[int]":
    """Sizes of the chunks.

    Raises:
        BitstreamError: One is written in more bytes than it needs.
    """
    cursor, sizes = Cursor(end.coded_sizes, end.position), array("Q")
    while cursor.remaining:
        sizes.append(cursor.read_varint("size of a chunk"))
    return sizes


def limits(header: Header) -> dict[bytes, int]:
    """Bytes that the body of each kind of block may have in a file: no chunk is longer than if it was packed."""
    chunk = MAX_CHUNK_NUMBERS + packed_size(header.bits, header.codes_in(header.longest_chunk))
    packed = {} if header.entropy is None else {PACKED_CHUNK: chunk}
    return {CHUNK: chunk, **packed, END: MAX_END}


def _text(text: str, size: Struct) -> bytes:
    data = text.encode()
    return size.pack(len(data)) + data


def _read_text(cursor: Cursor, size: Struct, what: str) -> str:
    (length,) = cursor.read(size, what)
    return bytes(cursor.take(length, what)).decode()


def _read_fields(cursor: Cursor) -> Header:
    fingerprint, *numbers, coding, tables = cursor.read(FIELDS, "header")
    sample_rate, channels, length, num_quantizers, bits, num_frames, frames_per_chunk, model_rate, hop_length = numbers
    if coding not in (PACKED, ENTROPY) or (coding == PACKED and tables != NO_TABLES):
        raise ValueError(f"coding must be {PACKED} without tables, or {ENTROPY}; got {coding} with {tables.hex()}")
    header = Header(
        model=_read_text(cursor, SHORT, "model name"),
        fingerprint=fingerprint.hex(),
        sample_rate=sample_rate,
        channels=channels,
        length=length or None,
        num_quantizers=num_quantizers,
        bits=bits,
        num_frames=num_frames or None,
        frames_per_chunk=frames_per_chunk,
        model_rate=model_rate or None,
        hop_length=hop_length or None,
        tags=_read_tags(cursor),
        entropy=tables.hex() if coding == ENTROPY else None,
    )
    if cursor.remaining:
        raise ValueError(f"it must end with its last tag; got {cursor.remaining} bytes more")
    return header


def _read_tags(cursor: Cursor) -> dict[str, str]:
    (count,) = cursor.read(SHORT, "number of tags")
    tags: dict[str, str] = {}
    for _ in range(count):
        key = _read_text(cursor, SHORT, "key of a tag")
        if key in tags:
            raise ValueError(f"every tag must have a key of its own; got {key!a} twice")
        tags[key] = _read_text(cursor, LONG, "value of a tag")
    return tags
