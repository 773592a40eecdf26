import hashlib
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from codec.bitstream import Header, Stream, read_stream, write_stream
from codec.bitstream.entropy import MAX_FRAMES, EntropyTables, digit_base

ROOT = Path(__file__).parents[2]


def uniform(seed, *shape):
    """In [0, 1), the same with every version of numpy and Python."""
    chance = random.Random(seed)
    return np.array([chance.random() for _ in range(prod(shape))]).reshape(shape)


def make_tables(num_quantizers=3, codebook_size=10):
    """Tables of two clusters a neighbour, with uneven weights."""
    base = digit_base(codebook_size)
    # By stage: 8 rows for the high digit, then 8 * base rows for the low one.
    rows = 8 + 8 * base
    starts = np.arange(num_quantizers)[:, None] * rows + np.array([0, 8])
    strides = np.array([[4, 2, 1], [4 * base, 2 * base, base]])[None, :, :, None]
    contexts = (uniform(0, num_quantizers, 2, 3, codebook_size + 1) < 0.5) * strides
    contexts[:, :, 0] += starts[:, :, None]
    uneven = uniform(1, num_quantizers * rows, base)
    uneven = uneven * uneven * uneven
    weights = 1 + (uneven * (65536 // base - 1)).astype(int)
    weights[:, 0] += 65536 - weights.sum(1)
    ranks = np.argsort(uniform(2, num_quantizers, codebook_size), axis=1)
    arrays = {"ranks": ranks, "contexts": contexts, "weights": weights}
    return EntropyTables.from_arrays({name: array.astype(np.uint16) for name, array in arrays.items()})


def random_codes(tables, channels, num_quantizers, frames, seed=0):
    return (uniform(seed, channels, num_quantizers, frames) * tables.codebook_size).astype(int)


def reference_decode(tables, payload, channels, num_quantizers, frames):
    """docs/format.md, step by step, in whole numbers only."""
    size, base = tables.codebook_size, digit_base(tables.codebook_size)
    code_of = [{int(rank): code for code, rank in enumerate(ranks)} for ranks in tables.ranks]
    padded = payload + bytes(-len(payload) % 4)
    words = [int.from_bytes(padded[at : at + 4], "little") for at in range(0, len(padded), 4)]
    state = 0
    while words and state < 2**32:
        state = state << 32 | words.pop()

    def decode_digit(row):
        nonlocal state
        quantile = state % 2**24
        edge, total = 0, 0
        for digit, weight in enumerate(tables.weights[row].tolist()):
            total += weight
            left, edge = edge, digit + 1 + total * (2**24 - base) // 2**16
            edge = 2**24 if digit == base - 1 else edge
            if quantile < edge:
                state = (state >> 24) * (edge - left) + quantile - left
                if state < 2**32 and words:
                    state = state << 32 | words.pop()
                return digit

    order = sorted((t + s, s, c, t) for c in range(channels) for s in range(num_quantizers) for t in range(frames))
    tail = max(count for count in range(21) if size**count <= 2**20)
    codes = {}

    def row_of(digit, c, s, t):
        neighbours = codes.get((c, s, t - 1), size), codes.get((c, 0, t), size), codes.get((c, s - 1, t), size)
        return sum(int(tables.contexts[s, digit, n, code]) for n, code in enumerate(neighbours))

    coded = order[: max(len(order) - tail, 0)]
    for diagonal in sorted({place[0] for place in coded}):
        places = [(c, s, t) for d, s, c, t in coded if d == diagonal]
        high = [decode_digit(row_of(0, *place)) for place in places]
        low = [decode_digit(row_of(1, *place) + digit) for place, digit in zip(places, high, strict=True)]
        for place, *digits in zip(places, high, low, strict=True):
            codes[place] = code_of[place[1]][digits[0] * base + digits[1]]
    for _, s, c, t in order[len(coded) :]:
        state, codes[c, s, t] = divmod(state, size)
    assert state == 0
    assert not words
    return [[[codes[c, s, t] for t in range(frames)] for s in range(num_quantizers)] for c in range(channels)]


shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))


@settings(deadline=None, max_examples=60)
@given(shape=shapes, codebook_size=st.sampled_from([2, 3, 10, 16, 300]), seed=st.integers(0, 99))
def test_codes_come_back_and_another_program_reads_them_too(shape, codebook_size, seed):
    tables = make_tables(codebook_size=codebook_size)
    codes = random_codes(tables, *shape, seed=seed)
    payload = tables.encode(codes)
    decoded = tables.decode(payload, *shape)
    assert decoded.dtype == np.int64
    assert np.array_equal(decoded, codes)
    assert reference_decode(tables, payload, *shape) == codes.tolist()


def test_long_chunks_come_back_through_several_blocks():
    tables = make_tables(codebook_size=1024)
    codes = random_codes(tables, 2, 3, 4000)
    assert np.array_equal(tables.decode(tables.encode(codes), 2, 3, 4000), codes)
    wide = random_codes(tables, 20_000, 1, 2)
    assert np.array_equal(tables.decode(memoryview(tables.encode(wide)), 20_000, 1, 2), wide)


def test_the_bytes_are_the_same_on_every_machine():
    tables = make_tables(codebook_size=1024)
    payload = tables.encode(random_codes(tables, 1, 3, 100))
    assert tables.fingerprint == "e26bdaacada30a8a"
    assert hashlib.sha256(payload).hexdigest()[:16] == "9c5220a9ecc5ce98"


class ReferenceCoder:
    """Decodes as the page says."""

    def __init__(self, tables):
        self.tables = tables
        self.fingerprint = tables.fingerprint

    def decode(self, payload, channels, num_quantizers, frames):
        return np.array(reference_decode(self.tables, payload, channels, num_quantizers, frames))


def test_the_golden_file_is_written_and_read_by_another_program_too(data):
    tables = EntropyTables.from_arrays(load_file(data / "version_2_entropy.safetensors"))
    codes = random_codes(tables, 2, 3, 20)
    # Likely ones in the second chunk; the others are shorter packed.
    codes[:, :, 8:16] = np.argsort(tables.ranks)[np.arange(3)[:, None], codes[:, :, 8:16] % 2]
    header = Header(
        model="tiny",
        fingerprint="0123456789abcdef",
        sample_rate=44_100,
        channels=2,
        length=17_640,
        num_quantizers=3,
        bits=4,
        num_frames=20,
        frames_per_chunk=8,
        model_rate=16_000,
        hop_length=320,
        entropy=tables.fingerprint,
    )
    golden = (data / "version_2_entropy.rvq").read_bytes()
    assert write_stream(Stream(header, codes), tables) == golden
    assert [golden.count(mark) for mark in (b"\xd7P", b"\xd7C")] == [2, 1]
    for coder in (tables, ReferenceCoder(tables)):
        stream = read_stream(golden, coder)
        assert stream.header == header
        assert np.array_equal(stream.codes, codes)


def test_the_bytes_do_not_depend_on_the_number_of_threads():
    program = (
        "import sys, torch; torch.set_num_threads(2); sys.path.insert(0, 'tests/bitstream')\n"
        "from test_entropy import make_tables, random_codes\n"
        "tables = make_tables(codebook_size=1024)\n"
        "print(tables.encode(random_codes(tables, 2, 3, 100)).hex())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    printed = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, env=environment, text=True)
    tables = make_tables(codebook_size=1024)
    assert bytes.fromhex(printed) == tables.encode(random_codes(tables, 2, 3, 100))


def test_the_size_is_what_the_tables_say_and_at_most_two_bytes_more():
    tables = make_tables(codebook_size=1024)
    for frames in (2, 10, 100):
        for seed in range(20):
            codes = random_codes(tables, 1, 3, frames, seed)
            assert len(tables.encode(codes)) <= tables.bits(codes).sum() / 8 + 2


def test_bits_of_a_stage_are_those_of_its_rows():
    tables = make_tables(num_quantizers=1, codebook_size=4)
    codes = np.array([[[3]]])
    high, low = divmod(int(tables.ranks[0, 3]), 2)
    rows = tables.contexts[0, :, :, 4].astype(int).sum(1) + np.array([0, high])
    expected = -np.log2(tables.weights[rows[0], high] / 65536) - np.log2(tables.weights[rows[1], low] / 65536)
    assert tables.bits(codes) == pytest.approx([expected])


def test_any_integer_type_gives_the_same_bytes():
    tables = make_tables()
    codes = random_codes(tables, 1, 3, 20)
    assert {tables.encode(codes.astype(dtype)) for dtype in ("u1", "i2", "u8", "i8")} == {tables.encode(codes)}


def test_what_decodes_is_what_encode_returns_and_all_else_is_an_error():
    tables = make_tables()
    chance = np.random.default_rng(0)
    decoded = 0
    for _ in range(3000):
        payload = chance.bytes(int(chance.integers(0, 12)))
        shape = (int(chance.integers(1, 3)), int(chance.integers(1, 4)), int(chance.integers(0, 6)))
        try:
            codes = tables.decode(payload, *shape)
        except ValueError:
            continue
        decoded += 1
        assert tables.encode(codes) == payload
    assert decoded > 100


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (bytes(range(1, 200)), r"payload of 6 codes must be at most 44 bytes; got 199"),
        (b"\1\0", r"payload must not end with a zero byte; got one"),
        (b"\xff" * 44, r"payload must end with its last code; got more"),
        (b"\xff\xff\xff", r"payload must end with its last code; got more"),
    ],
)
def test_bytes_that_cannot_be_are_an_error(payload, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_tables().decode(payload, 1, 3, 2)


def test_digits_beyond_the_codebook_are_an_error():
    # The rank 4 = 1 * 3 + 1 is the first that a codebook of 4 does not have.
    tables, larger = make_tables(1, 5), make_tables(1, 9)
    assert digit_base(5) == digit_base(9) == 3
    contexts = np.repeat(larger.contexts[..., -1:], 6, axis=-1)
    tables = replace(tables, contexts=contexts, weights=larger.weights)
    larger = replace(larger, contexts=np.repeat(contexts[..., :1], 10, axis=-1))
    codes = np.full((1, 1, 40), int(np.argmax(larger.ranks[0] == 8)))
    # The tail holds codes as they are, and 5 of them would be read otherwise than 9.
    with pytest.raises(ValueError, match=r"^(codes must be 0 to 4; got more|payload must end .*)$"):
        tables.decode(larger.encode(codes), 1, 1, 40)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((1, 4, 2), int), "codes must have 1 to 3 stages; got 4"),
        (np.zeros((1, 0, 2), int), "codes must have 1 to 3 stages; got 0"),
        (np.zeros((3, 2), int), "codes must be integers, [channels, num_quantizers, frames]; got int64, [3, 2]"),
        (np.zeros((1, 3, 2)), "codes must be integers, [channels, num_quantizers, frames]; got float64, [1, 3, 2]"),
        (np.array([[[0, 10]]]), "codes must be 0 to 9; got 0 to 10"),
        (np.array([[[-1, 3]]]), "codes must be 0 to 9; got -1 to 3"),
        (np.zeros((1, 1, MAX_FRAMES + 1), int), f"chunk must have at most {MAX_FRAMES} frames; got {MAX_FRAMES + 1}"),
    ],
)
def test_codes_that_the_tables_do_not_know_are_an_error(codes, message):
    for function in (make_tables().encode, make_tables().bits):
        with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
            function(codes)


def test_shapes_that_the_tables_do_not_know_are_an_error():
    with pytest.raises(ValueError, match="codes must have 1 to 3 stages; got 4"):
        make_tables().decode(b"", 1, 4, 1)
    with pytest.raises(ValueError, match="must have at most 16384 frames; got 16385"):
        make_tables().decode(b"", 1, 1, MAX_FRAMES + 1)


def test_arrays_make_the_same_tables_again():
    tables = make_tables()
    again = EntropyTables.from_arrays(tables.to_arrays())
    assert again.fingerprint == tables.fingerprint
    assert (again.num_quantizers, again.codebook_size) == (3, 10)


def test_the_fingerprint_tells_any_changed_number():
    tables = make_tables()
    seen = {tables.fingerprint}
    for name, array in tables.to_arrays().items():
        changed = array.copy()
        changed.flat[-1] ^= 1
        seen.add(replace(tables, **{name: changed}).fingerprint)
    assert len(seen) == 4


def change(name, value, *place):
    def changed(arrays):
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return changed


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda arrays: arrays.pop("ranks"), "entropy tables must be contexts, ranks, weights; got contexts, weights"),
        (lambda arrays: arrays.clear(), "entropy tables must be contexts, ranks, weights; got nothing"),
        (lambda arrays: arrays.update(ranks=arrays["ranks"].astype(int)), "ranks must be of type uint16; got int64"),
        (lambda arrays: arrays.update(ranks=arrays["ranks"][0]), r"ranks must be \[num_.*\]; got shape \(10,\)"),
        (lambda arrays: arrays.update(ranks=arrays["ranks"][:0]), r"ranks must be \[num_.*\]; got shape \(0, 10\)"),
        (lambda arrays: arrays.update(ranks=arrays["ranks"][:, :1]), r"ranks must be \[num_.*\]; got shape \(3, 1\)"),
        (change("ranks", 10, 1, 0), "ranks must be a permutation for each stage; got others"),
        (lambda arrays: arrays.update(contexts=arrays["contexts"][..., :10]), r"contexts must have shape .*3, 11\)"),
        (change("contexts", 120, 2, 1, 0, 5), "contexts must lead to the 120 rows of weights; got row 1"),
        (lambda arrays: arrays.update(weights=arrays["weights"][:, :3]), r"weights must be \[rows, 4\]; got shape"),
        (lambda arrays: arrays.update(weights=arrays["weights"][:0]), "contexts must lead to the 0 rows"),
        (change("weights", [0, 65533, 2, 1], 7), "weights must be positive, with a sum of 65536 in each row"),
        (change("weights", [1, 1, 1, 1], 7), "weights must be positive, with a sum of 65536 in each row"),
    ],
)
def test_arrays_that_are_no_tables_are_an_error(spoil, message):
    arrays = make_tables().to_arrays()
    spoil(arrays)
    with pytest.raises(ValueError, match=message):
        EntropyTables.from_arrays(arrays)
