"""Code streams as bytes, and back."""

from codec.bitstream.container import read_header, read_stream, write_stream
from codec.bitstream.cursor import BitstreamError
from codec.bitstream.entropy import EntropyTables
from codec.bitstream.learn import learn_tables
from codec.bitstream.packing import ChunkCoder, Packed, pack, packed_size, unpack
from codec.bitstream.reader import StreamReader
from codec.bitstream.stream import MAX_CODED_CODES_PER_CHUNK, MAX_CODES_PER_CHUNK, Chunk, Header, Stream
from codec.bitstream.tags import clean_tags
from codec.bitstream.verify import Verification, verify
from codec.bitstream.writer import StreamWriter

__all__ = [
    "MAX_CODED_CODES_PER_CHUNK",
    "MAX_CODES_PER_CHUNK",
    "BitstreamError",
    "Chunk",
    "ChunkCoder",
    "EntropyTables",
    "Header",
    "Packed",
    "Stream",
    "StreamReader",
    "StreamWriter",
    "Verification",
    "clean_tags",
    "learn_tables",
    "pack",
    "packed_size",
    "read_header",
    "read_stream",
    "unpack",
    "verify",
    "write_stream",
]
