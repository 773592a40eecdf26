import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from codec.bitstream import BitstreamError, Header, Packed, Stream, StreamReader, StreamWriter, version_2, write_stream
from codec.bitstream.cursor import varint

HEADER = Header("tiny", "0123456789abcdef", 16_000, 1, 320 * 78, 3, 5, 78, 4, 16_000, 320, {"title": "one"})
CODES = np.random.default_rng(0).integers(0, 32, (1, 3, 78))
FILE = write_stream(Stream(HEADER, CODES))
SHORT = write_stream(Stream(replace(HEADER, num_frames=30, length=320 * 30), CODES[:, :, :30]))
MESSAGE = r"^byte {}: chunk {} \(at {} s\) {}"


@pytest.fixture(scope="module")
def live(fuzz):
    """The same stream, written to a pipe."""
    sink = fuzz.Sink()
    writer = StreamWriter(sink, replace(HEADER, length=None, num_frames=None))
    writer.write(CODES)
    writer.close(HEADER.length)
    return sink.getvalue()


@pytest.fixture(scope="module")
def parts(fuzz):
    """Header, chunks 0 to 19 and end block of the file; `join` makes a file of them."""
    return fuzz.split(FILE)


@pytest.fixture(scope="module")
def join(fuzz):
    return lambda parts: fuzz.join(parts, 2)


def start_of(number):
    """Where a chunk begins; that of number 20 is the end block."""
    positions = [match.start() for match in re.finditer(b"\xd7[CE]", FILE)]
    assert len(positions) == 21
    return positions[number]


def read(data, file=BytesIO, **options):
    """Numbers of the chunks that are lost, after checking that everything else is there, at its place."""
    reader = StreamReader(file(data), conceal=True)
    place, lost = 0, []
    for chunk in reader.chunks(**options):
        assert chunk.first_frame == place
        place += chunk.num_frames
        if chunk.codes is None:
            lost += range(chunk.first_frame // 4, -(-place // 4))
            assert chunk.problem
        else:
            assert np.array_equal(chunk.codes, CODES[:, :, chunk.first_frame : place])
            assert chunk.problem is None
    return place, lost, reader.problems


def fails(data, message):
    reader = StreamReader(BytesIO(data))
    with pytest.raises(BitstreamError, match=message):
        list(reader.chunks())


def test_a_whole_file_has_no_problems(fuzz, live):
    for data in (FILE, live):
        for file in (BytesIO, fuzz.Pipe):
            assert read(data, file) == (78, [], [])
    assert StreamReader(BytesIO(FILE)).version == 2


def test_a_live_file_tells_its_length_at_once_or_at_its_end(fuzz, live):
    reader = StreamReader(BytesIO(live))
    assert (reader.header.length, reader.length, reader.num_frames) == (None, 320 * 78, 78)
    reader = StreamReader(fuzz.Pipe(live))
    assert (reader.length, reader.num_frames) == (None, None)
    assert sum(chunk.num_frames for chunk in reader.chunks()) == 78
    assert (reader.length, reader.num_frames) == (320 * 78, 78)


@pytest.mark.parametrize("number", [0, 7, 18, 19])
def test_every_flipped_byte_of_a_chunk_costs_that_chunk(number, fuzz, live):
    for data in (FILE, live):
        for position in range(start_of(number), start_of(number + 1)):
            damaged = bytearray(data)
            damaged[position] ^= 0x81
            fails(damaged, MESSAGE.format(start_of(number), number, f"{number * 0.08:.2f}", ".*"))
            for file in (BytesIO, fuzz.Pipe):
                frames, lost, problems = read(damaged, file)
                assert (frames, lost, problems) == (78, [number], [])


def test_every_flipped_byte_of_the_header_costs_nothing_in_a_long_file(fuzz):
    for position in range(start_of(0)):
        damaged = bytearray(FILE)
        damaged[position] ^= 0x81
        with pytest.raises(BitstreamError, match=r"^byte \d+: "):
            StreamReader(BytesIO(damaged))
        frames, lost, (problem,) = read(damaged)
        assert (frames, lost) == (78, [])
        assert re.match(r"byte \d+: .*; its copy at the end was used$", problem)
        assert StreamReader(BytesIO(damaged), conceal=True).header == HEADER


def test_one_flipped_byte_of_the_header_is_repaired_in_a_short_file_and_in_a_pipe(fuzz):
    for position in [*range(12), *range(12, start_of(0), 9), start_of(0) - 1]:
        for data, file in ((SHORT, BytesIO), (SHORT, fuzz.Pipe), (FILE, fuzz.Pipe)):
            damaged = bytearray(data)
            damaged[position] ^= 0x81
            frames, lost, (problem,) = read(damaged, file)
            assert (frames, lost) == (30 if data is SHORT else 78, [])
            assert re.match(rf"byte \d+: .*; byte {position} of it was repaired$", problem)


def test_more_than_one_byte_of_a_short_header_is_an_error():
    damaged = bytearray(SHORT)
    damaged[20] ^= 1
    damaged[30] ^= 1
    message = "^byte 0: header is damaged: .*; no change of one byte repairs it, and there is no copy of it at the end$"
    with pytest.raises(BitstreamError, match=message):
        StreamReader(BytesIO(damaged), conceal=True)


def test_a_header_of_more_than_a_kilobyte_is_not_repaired():
    data = bytearray(write_stream(Stream(replace(HEADER, num_frames=30, tags={"long": "x" * 1000}), CODES[:, :, :30])))
    data[20] ^= 1
    with pytest.raises(BitstreamError, match="no change of one byte repairs it"):
        StreamReader(BytesIO(data), conceal=True)


def test_every_flipped_byte_behind_the_chunks_costs_nothing(fuzz, live):
    for data in (FILE, live):
        for position in range(start_of(20), len(data)):
            damaged = bytearray(data)
            damaged[position] ^= 0x81
            fails(damaged, r"^byte \d+: ")
            for file in (BytesIO, fuzz.Pipe):
                frames, lost, problems = read(damaged, file)
                assert (frames, lost, len(problems)) == (78, [], 1)


def test_a_missing_chunk_is_lost_alone(parts, join):
    for number in range(20):
        data = join(parts[: 1 + number] + parts[2 + number :])
        fails(data, r"^byte \d+: chunk \d+ \(at [\d.]+ s\) must come here; got ")
        frames, lost, problems = read(data)
        assert (frames, lost) == (78, [number])
        assert problems == [] or "index" in problems[0]


def test_a_doubled_chunk_costs_nothing(parts, join):
    for number in range(20):
        data = join(parts[: 1 + number] + parts[1 + number :][:1] + parts[1 + number :])
        fails(data, rf"must come here; got chunk {number}, which was there already" if number < 19 else "must ")
        assert read(data)[:2] == (78, [])


@pytest.mark.parametrize(("places", "lost"), [(1, []), (2, []), (4, []), (5, [3]), (10, [3])])
def test_swapped_chunks_are_put_in_order_if_they_are_not_far_apart(parts, join, places, lost):
    swapped = list(parts)
    swapped[4], swapped[4 + places] = swapped[4 + places], swapped[4]
    fails(join(swapped), rf"chunk 3 \(at 0.24 s\) must come here; got chunk {3 + places}$")
    assert read(join(swapped))[:2] == (78, lost)


def test_what_is_cut_off_is_lost_and_nothing_else(fuzz, live):
    for length in range(start_of(0), len(FILE)):
        # The last chunk that is whole, and where the error says that wholeness ends.
        whole = sum(start_of(number + 1) <= length for number in range(20))
        fails(FILE[:length], r"^byte \d+: truncated: .*(whole up to here|all chunks are whole)$")
        if whole < 20:
            fails(FILE[:length], rf"chunk {whole} \(at {whole * 0.08:.2f} s\)")
        frames, lost, problems = read(FILE[:length])
        assert (frames, lost) == (78, list(range(whole, 20)))
        frames, lost, problems = read(live[:length])
        assert (frames, lost) == (min(78, whole * 4), [])
        assert problems


def test_garbage_at_the_end_is_left_out(fuzz, live):
    for data in (FILE, live):
        for garbage in (b"a", b"RIFF" * 100, FILE, b"\xd7C" * 5000):
            fails(data + garbage, rf"^byte {len(data)}: the file must end here; got more bytes$")
            for file in (BytesIO, fuzz.Pipe):
                assert read(data + garbage, file)[:2] == (78, [])


@pytest.mark.parametrize("inserted", [b"a", b"\xd7C", b"\xd7E\0", bytes(3000), b"\xd7C\x08\x01\x04" * 1000])
def test_garbage_between_chunks_costs_nothing_and_inside_of_one_that_one(inserted):
    for number in (0, 7, 19):
        place = start_of(number)
        frames, lost, problems = read(FILE[:place] + inserted + FILE[place:])
        assert (frames, lost, len(problems)) == (78, [], 1)
        frames, lost, problems = read(FILE[: place + 3] + inserted + FILE[place + 3 :])
        assert (frames, lost, problems) == (78, [number], [])


def test_many_damages_cost_what_they_hit():
    damaged = bytearray(FILE)
    for number in (0, 3, 6, 10, 18):
        damaged[start_of(number) + 5] ^= 1
    del damaged[start_of(13) : start_of(15)]
    chunks = [chunk for chunk in StreamReader(BytesIO(damaged), conceal=True).chunks() if chunk.codes is None]
    lost = [(0, 1), (3, 1), (6, 1), (10, 1), (13, 2), (18, 1)]
    assert [(chunk.first_frame // 4, chunk.num_frames // 4) for chunk in chunks] == lost
    for chunk, (number, _) in zip(chunks, lost, strict=True):
        assert f"chunk {number} (at {number * 0.08:.2f} s) is " in chunk.problem


class Counted(BytesIO):
    """Counts what is read of it."""

    taken = 0

    def read1(self, size=-1):
        data = super().read1(size)
        self.taken += len(data)
        return data


def long_file():
    header = replace(HEADER, num_quantizers=12, bits=10, frames_per_chunk=100, num_frames=100_000, tags={})
    return write_stream(Stream(header, np.broadcast_to(np.arange(100_000) // 100, (1, 12, 100_000))))


@pytest.mark.parametrize("conceal", [False, True])
def test_reading_from_the_middle_reads_nothing_before(conceal):
    file = Counted(long_file())
    reader = StreamReader(file, conceal=conceal)
    for first_frame in (54_321, 99_999, 0, 7):
        file.taken = 0
        chunk = next(reader.chunks(first_frame))
        assert chunk.first_frame == first_frame // 100 * 100
        assert chunk.codes.max() == chunk.codes.min() == first_frame // 100
        assert file.taken < 70_000 < len(file.getvalue()) // 20
    assert list(reader.chunks(100_000)) == list(reader.chunks(2**62)) == []


def test_every_start_gives_what_reading_everything_gives(fuzz, live):
    for data in (FILE, live):
        for file in (BytesIO, fuzz.Pipe):
            for first_frame in (0, 3, 4, 41, 77, 78, 1000):
                chunks = [chunk.codes for chunk in StreamReader(file(data)).chunks(first_frame)]
                codes = np.concatenate([CODES[:, :, :0], *chunks], axis=2)
                assert np.array_equal(codes, CODES[:, :, first_frame // 4 * 4 :])


def test_without_an_index_chunks_are_searched():
    place = start_of(20) + 100
    for data in (FILE[: start_of(20)], FILE[:place] + b"!" + FILE[place:], FILE + b"more"):
        chunk = next(StreamReader(BytesIO(data)).chunks(41))
        assert (chunk.first_frame, chunk.codes.tolist()) == (40, CODES[:, :, 40:44].tolist())
    # Bytes were lost before, so the index leads to other places.
    place = start_of(3)
    chunks = list(StreamReader(BytesIO(FILE[: place + 2] + FILE[place + 7 :]), conceal=True).chunks(41))
    assert [chunk.first_frame for chunk in chunks] == list(range(40, 78, 4))
    assert all(chunk.codes is not None for chunk in chunks)


def test_chunks_behind_the_end_block_are_found(fuzz, live):
    for data in (FILE, live):
        header, *chunks, end = fuzz.split(data)
        for place in (0, 10, 19):
            moved = fuzz.join([header, *chunks[:place], end, *chunks[place:]], 2)
            fails(moved, r"must come here; got the end block$")
            for file in (BytesIO, fuzz.Pipe):
                frames, lost, problems = read(moved, file)
                assert (frames, lost) == (78, [])
                assert problems
                assert not any("index" in problem for problem in problems)


def test_a_damaged_chunk_that_is_asked_for_is_the_one_that_is_blamed():
    damaged = bytearray(FILE)
    for number in (3, 10):
        damaged[start_of(number) + 5] ^= 1
    with pytest.raises(BitstreamError, match=r"chunk 10 \(at 0.80 s\) is damaged"):
        next(StreamReader(BytesIO(damaged)).chunks(41))
    first = next(StreamReader(BytesIO(damaged), conceal=True).chunks(41))
    assert (first.first_frame, first.codes) == (40, None)


def lost_frames(data):
    reader = StreamReader(BytesIO(data), conceal=True)
    return sum(chunk.num_frames for chunk in reader.chunks() if chunk.codes is None), reader.problems


def test_a_tail_that_is_only_claimed_is_left_out(fuzz):
    header = replace(HEADER, num_frames=10**9, length=320 * 10**9)
    data = version_2.write_header(header) + version_2.write_chunk(0, 4, Packed(5).encode(CODES[:, :, :4]))
    lost, problems = lost_frames(data)
    assert lost == 2**20 + 4
    assert "chunk 262146 (at 20971.68 s) and all behind it are lost too, and left out" in problems[-1]


def test_a_chunk_too_far_ahead_is_damage(fuzz, live):
    header, *chunks, _ = fuzz.split(live)
    for number, expected in ((20 + 2**18, 2**20), (21 + 2**18 + 20, 0), (2**32 - 2, 0)):
        far = b"\xd7C" + varint(number) + chunks[0][3:]
        lost, problems = lost_frames(fuzz.join([header, *chunks[:19], far], 2)[:-8])
        assert 0 <= lost - expected <= 4
        assert any(f"got chunk {number}, which is too far ahead" in problem for problem in problems) == (not expected)


def test_a_loss_begins_no_earlier_than_what_was_asked_for(parts, join):
    first, *_ = StreamReader(BytesIO(join(parts[:5] + parts[12:])), conceal=True).chunks(30)
    assert (first.first_frame, first.num_frames, first.codes) == (28, 16, None)


def test_entropy_coded_chunks_take_their_tables(fuzz):
    tables = fuzz.tiny_tables()
    data = write_stream(Stream(replace(HEADER, entropy=tables.fingerprint), CODES), tables)
    reader = StreamReader(BytesIO(data))
    with pytest.raises(RuntimeError, match=r"^the codes are entropy-coded: call `use` with the tables of their model"):
        reader.chunks()
    reader.use(tables)
    for reading in (reader, StreamReader(BytesIO(data), tables)):
        assert np.array_equal(np.concatenate([chunk.codes for chunk in reading.chunks()], axis=2), CODES)
    other = replace(tables, weights=tables.weights[::-1].copy())
    with pytest.raises(ValueError, match=f"^entropy tables must be {tables.fingerprint}; got {other.fingerprint}$"):
        StreamReader(BytesIO(data), other)
    StreamReader(BytesIO(FILE)).use(tables)  # packed: they are not needed


def test_a_header_that_entropy_tables_cannot_have_is_an_error(fuzz):
    tables = fuzz.tiny_tables()
    for changes, message in (
        ({"bits": 4}, "bits must be enough for the 32 codes of the entropy tables; got 4"),
        ({"num_quantizers": 4}, "num_quantizers must be at most 3 as in the entropy tables; got 4"),
    ):
        header = replace(HEADER, entropy=tables.fingerprint, **changes)
        with pytest.raises(BitstreamError, match=f"^byte 0: header is wrong: {message}$"):
            StreamReader(BytesIO(version_2.write_header(header)), tables)
        with pytest.raises(ValueError, match=f"^{message}$"):
            StreamWriter(BytesIO(), header, tables)


def test_wrong_moments_and_places_are_errors(fuzz):
    reader = StreamReader(fuzz.Pipe(FILE))
    assert not reader.seekable
    with pytest.raises(ValueError, match=r"^first_frame must not be negative; got -1$"):
        reader.chunks(-1)
    reader.chunks()
    with pytest.raises(RuntimeError, match=r"^a pipe cannot be read again$"):
        reader.chunks()
    with pytest.raises(BitstreamError, match=r"^byte 0: not a file of codes: it must start with b'RVQC'; got b'RIFF'"):
        StreamReader(BytesIO(b"RIFF" + bytes(100)), conceal=True)


def test_an_end_block_that_asks_for_longer_chunks_than_there_can_be_is_damage(fuzz):
    # By its header all of the file is one short chunk; with as many frames as the end block says, it would be too long.
    header = Header(
        model="tiny",
        fingerprint="0123456789abcdef",
        sample_rate=16_000,
        channels=1,
        length=320,
        num_quantizers=1,
        bits=4,
        num_frames=1,
        frames_per_chunk=1 << 30,
    )
    parts = fuzz.split(write_stream(Stream(header, np.zeros((1, 1, 1), dtype=int))))
    parts[-1] = parts[-1][:2] + varint(1 << 21) + parts[-1][3:]
    fails(fuzz.join(parts, 2), "end block is wrong: a chunk must have at most")
