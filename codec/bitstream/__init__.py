"""Code streams as bytes, and back."""

from codec.bitstream.container import read_header, read_stream, write_stream
from codec.bitstream.cursor import BitstreamError
from codec.bitstream.packing import pack, packed_size, unpack
from codec.bitstream.stream import Header, Stream

__all__ = [
    "BitstreamError",
    "Header",
    "Stream",
    "pack",
    "packed_size",
    "read_header",
    "read_stream",
    "unpack",
    "write_stream",
]
