"""Read files of codes that are random, damaged, or lie: `scripts/fuzz --help`.

Each case is made from its number alone, so that one that fails can be run again: `--first NUMBER --count 1`.
"""

import argparse
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from io import BytesIO, RawIOBase
from random import Random
from struct import Struct
from time import perf_counter
from zlib import crc32

import numpy as np
from rich.console import Console
from rich.progress import track

from codec.bitstream import (
    BitstreamError,
    EntropyTables,
    Header,
    Stream,
    StreamReader,
    StreamWriter,
    learn_tables,
    read_stream,
    verify,
    write_stream,
)
from codec.bitstream.cursor import Cursor, varint

KILOBYTE = 1e3
Wrap = Callable[[range], Iterable[int]]


class Pipe(RawIOBase):
    """Bytes that can be read once."""

    def __init__(self, data: bytes) -> None:
        self._file = BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


class Sink(Pipe):
    """What takes bytes, and cannot go back."""

    def __init__(self) -> None:
        super().__init__(b"")

    def write(self, data) -> int:
        return self._file.write(data)

    def getvalue(self) -> bytes:
        return self._file.getvalue()


# Real files, and their parts.


def write_version_1(stream: Stream) -> bytes:
    """A file of version 1, which the package reads only."""
    header = stream.header
    name = header.model.encode()
    start = b"RVQC\1\0" + Struct("<8sIHQHBQIB").pack(
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
    parts = [start + name]
    for first in range(0, header.num_frames, header.frames_per_chunk):
        codes = stream.codes[:, :, first : first + header.frames_per_chunk].transpose(2, 0, 1).reshape(-1).tolist()
        packed = sum(code << header.bits * place for place, code in enumerate(codes))
        size = -(-header.bits * len(codes) // 8)
        frames = len(codes) // (header.channels * header.num_quantizers)
        parts.append(frames.to_bytes(4, "little") + packed.to_bytes(size, "little"))
    return b"".join(part + crc32(part).to_bytes(4, "little") for part in parts)


def split(data: bytes) -> list[bytes]:
    """Parts of an undamaged file that have a checksum each, without the checksum, and without the size before."""
    if data[4] == 1:
        return _split_version_1(data)
    size = int.from_bytes(data[6:10], "little")
    parts, cursor = [data[10 : 10 + size]], Cursor(data)
    cursor.take(14 + size, "header")
    while cursor.remaining > 8:
        kind = bytes(cursor.take(2, "marker"))
        parts.append(kind + bytes(cursor.take(cursor.read_varint("size"), "body")))
        cursor.take(4, "checksum")
    return parts


def join(parts: list[bytes], version: int) -> bytes:
    """Undo `split`: sizes and checksums are made to fit the parts."""
    if version == 1:
        return b"".join(part + crc32(part).to_bytes(4, "little") for part in parts)
    header = b"RVQC\2\0" + len(parts[0]).to_bytes(4, "little") + parts[0]
    closed = [header + crc32(header).to_bytes(4, "little"), *(block(part[:2], part[2:]) for part in parts[1:])]
    return b"".join(closed) + len(closed[-1]).to_bytes(4, "little") + b"CQVR"


def block(marker: bytes, body: bytes) -> bytes:
    """Size and checksum around the body of a chunk or an end block."""
    data = marker + varint(len(body)) + body
    return data + crc32(data).to_bytes(4, "little")


def _split_version_1(data: bytes) -> list[bytes]:
    stream = read_stream(data)
    ends = [44 + data[43]]
    for first in range(0, stream.header.num_frames, stream.header.frames_per_chunk):
        frames = min(stream.header.frames_per_chunk, stream.header.num_frames - first)
        ends.append(ends[-1] + 4 + 4 + -(-stream.header.codes_in(frames) * stream.header.bits // 8))
    starts = [0, *(end + 4 for end in ends[:-1])]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)]


def real_files(tables: EntropyTables) -> list[bytes]:
    """Short, long and large ones, of each version, of known and unknown length, packed and entropy-coded."""
    short = Header(
        model="tiny",
        fingerprint="0123456789abcdef",
        sample_rate=16_000,
        channels=2,
        length=320 * 45,
        num_quantizers=3,
        bits=5,
        num_frames=45,
        frames_per_chunk=10,
        model_rate=16_000,
        hop_length=320,
        tags={"title": "one", "artist": "two"},
    )
    long = replace(short, channels=1, num_frames=90, frames_per_chunk=5, length=320 * 90)
    codes = np.random.default_rng(0).integers(0, tables.codebook_size, (2, 3, 90))
    # Likely ones, or all chunks would be shorter packed.
    codes[:, :, ::2] = np.argsort(tables.ranks)[None, :, :1]
    files = [
        write_version_1(Stream(header, codes[: header.channels, :, : header.num_frames])) for header in (short, long)
    ]
    for header in (short, long, replace(short, entropy=tables.fingerprint)):
        coder = None if header.entropy is None else tables
        for file, known in ((BytesIO(), header), (Sink(), replace(header, length=None, num_frames=None))):
            writer = StreamWriter(file, known, coder)
            writer.write(codes[: header.channels, :, : header.num_frames])
            writer.close(header.length)
            files.append(file.getvalue())
    large = replace(short, num_frames=10_000, frames_per_chunk=3_000, length=320 * 10_000)
    codes = np.tile(codes, 112)[:, :, :10_000]
    coded = write_stream(Stream(replace(large, entropy=tables.fingerprint), codes), tables)
    return [*files, write_stream(Stream(replace(large, frames_per_chunk=10_000), codes)), coded]


def tiny_tables() -> EntropyTables:
    """Tables for codes of 5 bits."""
    codes = np.random.default_rng(0).integers(0, 32, (3, 500))
    return learn_tables([codes], codebook_size=32)


# Ways to make a file wrong.


def flip(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 8])):
        changed[random.randrange(len(changed))] ^= random.randrange(1, 256)
    return bytes(changed)


def cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def delete(data: bytes, random: Random) -> bytes:
    start, end = _range(data, random)
    return data[:start] + data[end:]


def insert(data: bytes, random: Random) -> bytes:
    place = random.randrange(len(data) + 1)
    inserted = random.choice([random.randbytes(random.randrange(1, 300)), b"\xd7C" * random.randrange(1, 300)])
    return data[:place] + inserted + data[place:]


def repeat(data: bytes, random: Random) -> bytes:
    start, end = _range(data, random)
    return data[:end] + data[start:end] * random.randrange(1, 4) + data[end:]


def swap(data: bytes, random: Random) -> bytes:
    a, b, c, d = sorted(random.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def shuffle_parts(data: bytes, random: Random) -> bytes:
    """Drop, double or swap whole chunks."""
    parts = split(data)
    for _ in range(random.randrange(1, 4)):
        a, b = (random.randrange(1, len(parts)) for _ in range(2))
        random.choice(
            [
                lambda a=a: parts.pop(a) if len(parts) > 2 else None,
                lambda a=a, b=b: parts.insert(b, parts[a]),
                lambda a=a, b=b: parts.__setitem__(slice(a, b), parts[a:b][::-1]),
            ]
        )()
    return join(parts, data[4])


def lie(data: bytes, random: Random) -> bytes:
    """Change what a part says, and make its checksum fit: counts, lengths, sizes, numbers, payloads, and the order."""
    parts = split(data)
    for _ in range(random.choice([1, 1, 2, 4])):
        index = random.choice([0, -1, random.randrange(len(parts))])
        part = bytearray(parts[index])
        # The numbers of a chunk are its first bytes, and those of the end block.
        place = min(random.choice([random.randrange(len(part) + 1), random.randrange(2, 12)]), len(part))
        size = random.choice([1, 2, 4, 8])
        number = random.choice(
            [0, 1, 2**7, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), random.randrange(2 ** (8 * size))]
        )
        replaced = random.choice([0, size])
        part[place : place + replaced] = random.choice([number.to_bytes(size, "little"), varint(number >> 1), b""])
        parts[index] = bytes(part)
    return join(parts, data[4])


FIELD_SIZES = {
    1: [6, 8, 4, 2, 8, 2, 1, 8, 4],
    2: [8, 4, 2, 8, 2, 1, 8, 4, 4, 4, 1, 8],
}


def lie_in_header(data: bytes, random: Random) -> bytes:
    """Change fields of the header, and of its copy, to the numbers next to them and to those at the ends of ranges."""
    parts, sizes = split(data), FIELD_SIZES[data[4]]
    header = parts[0]
    for index in random.sample(range(1 if data[4] == 1 else 0, len(sizes)), random.choice([1, 1, 1, 2])):
        start, size = sum(sizes[:index]), sizes[index]
        old = int.from_bytes(header[start : start + size], "little")
        top = 8 * size
        number = random.choice([0, 1, old - 1, old + 1, old // 2, 2 * old, 2 ** random.randrange(top), 2**top - 1])
        header = header[:start] + (number % 2**top).to_bytes(size, "little") + header[start + size :]
    whole, changed = (join([part], 2)[: len(part) + 14] for part in (parts[0], header))
    parts = [header, *(part.replace(whole, changed) if part[:2] == b"\xd7E" else part for part in parts[1:])]
    return join(parts, data[4])


def nest(data: bytes, random: Random) -> bytes:
    """Put blocks into blocks: each is whole, and says what cannot be."""
    body, size = b"\1" * random.randrange(200_000), random.randrange(200_000)
    for _ in range(random.randrange(60)):
        marker = random.choice([b"\xd7E", b"\xd7E", b"\xd7C"])
        body = block(marker, varint(random.choice([size, size + 1, 90])) + varint(320 * 90) + varint(0) + body)
    return _put(data, body, random)


def claim(data: bytes, random: Random) -> bytes:
    """Put marks that claim up to megabytes, some of them behind whole blocks, before bytes that could be these."""
    size = 2 ** random.randrange(6, 23)
    unit = random.choice([b"", block(b"\xd7C", b"")]) + (random.choice([b"\xd7E", b"\xd7P"]) + varint(size)) * 3
    return _put(data, unit * random.randrange(4_000) + bytes(size // 2), random)


def jump(data: bytes, random: Random) -> bytes:
    """Put chunks with few bytes that claim many frames, or a place far ahead."""
    frames = random.choice([1, 5, 10, 3_000, 10_000])
    number = random.choice([0, 3, 2 ** random.randrange(33), 2**32 - 1])
    kind, payload = random.choice([b"C", b"P"]), random.choice([b"", b"\1\2\3"])
    numbers = range(number, number + random.choice([1, 99]))
    chunks = [block(b"\xd7" + kind, varint(number) + varint(frames) + payload) for number in numbers]
    return _put(data, b"".join(chunks), random)


def stuff(data: bytes, random: Random) -> bytes:
    """Any bytes, behind the start of a real file."""
    return data[: random.choice([0, 4, 6, 10, len(data) // 2])] + random.randbytes(random.randrange(400))


# These make megabytes, which take longer.
SLOW: list[Callable[[bytes, Random], bytes]] = [nest, claim, jump]
DAMAGES: list[Callable[[bytes, Random], bytes]] = [
    *[flip, cut, delete, insert, repeat, swap],
    shuffle_parts,
    *[lie, lie, lie, lie],
    *[lie_in_header, lie_in_header],
    stuff,
]


def _put(data: bytes, inserted: bytes, random: Random) -> bytes:
    """Insert bytes at the start of a block, or at the end; sometimes nothing else follows."""
    starts = [place for place in range(len(data)) if data.startswith((b"\xd7C", b"\xd7E"), place)]
    place = random.choice([*starts[:3], *starts[-3:], len(data)])
    return data[:place] + inserted + data[place:] * random.randrange(2)


def _range(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data))
    return start, min(len(data), start + random.choice([1, 4, 40, 400]))


# Reading them.


@dataclass
class Tally:
    """What became of the cases.

    Attributes:
        count: How many there were.
        accepted: How many could be read to their end.
        slowest: The most seconds for one case, and its number.
        peak: The most memory of one case in bytes, and its number.
    """

    count: int = 0
    accepted: int = 0
    slowest: tuple[float, int] = (0.0, 0)
    peak: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        return (
            f"{self.count} files: {self.accepted} accepted, {self.count - self.accepted} refused; "
            f"slowest {1000 * self.slowest[0]:.0f} ms (case {self.slowest[1]})"
            + (f", peak memory {self.peak[0] / KILOBYTE:.0f} kB (case {self.peak[1]})" if self.peak[0] else "")
        )


def make_case(files: list[bytes], number: int) -> tuple[bytes, Random]:
    """The file of a case, and what decides how it is read."""
    random = Random(number)
    # Small ones more often than large ones, which take longer.
    (data,) = random.choices(files, [1 / len(file) for file in files])
    for _ in range(random.choice([1, 1, 1, 2])):
        damages = SLOW if random.random() < 0.02 else DAMAGES
        data = random.choice(damages)(data, random) if _is_whole(data, files) else flip(data or b"\0", random)
    return data, random


def read(data: bytes, tables: EntropyTables, random: Random) -> bool:
    """Read a file in one of the ways there are; whether it was accepted.

    Any other exception than `BitstreamError` is raised, as is an AssertionError if chunks have gaps.
    """
    file = random.choice([BytesIO, Pipe])(data)
    way = random.choice(["strict", "conceal", "conceal", "verify"])
    try:
        if way == "verify":
            return not verify(file).problems
        reader = StreamReader(file, conceal=way == "conceal")
        if reader.header.entropy not in (None, tables.fingerprint):
            return False
        reader.use(tables)
        _check(reader, random.choice([0, 0, random.randrange(500), 2**40]))
    except BitstreamError:
        return False
    return True


def fuzz(count: int, first: int = 0, *, traced: bool = True, wrap: Wrap = iter) -> Tally:
    """Read files that are made from the numbers `first` to `first + count - 1`.

    Args:
        count: How many.
        first: Number of the first.
        traced: Measure memory, which takes several times as long.
        wrap: Shows progress.
    """
    tables, tally = tiny_tables(), Tally()
    files = real_files(tables)
    if traced:
        tracemalloc.start()
    try:
        for number in wrap(range(first, first + count)):
            data, random = make_case(files, number)
            start, before = perf_counter(), _start_memory()
            try:
                tally.accepted += read(data, tables, random)
            except Exception as error:
                raise RuntimeError(f"case {number} failed") from error
            tally.slowest = max(tally.slowest, (perf_counter() - start, number))
            tally.peak = max(tally.peak, (tracemalloc.get_traced_memory()[1] - before, number))
            tally.count += 1
    finally:
        tracemalloc.stop()
    return tally


def _start_memory() -> int:
    """What is taken now; the peak begins anew."""
    if tracemalloc.is_tracing():
        tracemalloc.reset_peak()
    return tracemalloc.get_traced_memory()[0]


def _check(reader: StreamReader, first_frame: int) -> None:
    size = reader.header.frames_per_chunk
    place = first_frame // size * size
    for chunk in reader.chunks(first_frame):
        assert chunk.first_frame == place, f"chunk must begin at {place}; got {chunk.first_frame}"
        assert chunk.num_frames > 0, "chunk must have frames"
        if chunk.codes is None:
            assert chunk.problem, "a loss must have a reason"
        else:
            shape = (reader.header.channels, reader.header.num_quantizers, chunk.num_frames)
            assert chunk.codes.shape == shape, f"codes must have shape {shape}; got {chunk.codes.shape}"
            assert 0 <= chunk.codes.min() <= chunk.codes.max() < 1 << reader.header.bits, "codes must be in range"
        place += chunk.num_frames


def _is_whole(data: bytes, files: list[bytes]) -> bool:
    return any(data is file for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0].split(":")[0] + ".")
    parser.add_argument("--count", type=int, default=10_000, help="how many files to read (default: 10000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first (default: 0)")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out measuring memory, which takes most of the time"
    )
    arguments = parser.parse_args()
    console = Console(stderr=True)

    def show(numbers: range) -> Iterable[int]:
        return track(numbers, console=console, transient=True)

    print(fuzz(arguments.count, arguments.first, traced=not arguments.no_memory, wrap=show))


if __name__ == "__main__":
    main()
