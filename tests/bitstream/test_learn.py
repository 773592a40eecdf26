import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec import Codec
from codec.bitstream import packed_size
from codec.bitstream.entropy import EntropyTables
from codec.bitstream.learn import learn_tables

ROOT = Path(__file__).parents[2]


def bits_per_code(tables, codes):
    return tables.bits(codes[None]) / codes.shape[1]


def test_codes_without_any_pattern_cost_what_they_cost_packed():
    codes = np.random.default_rng(0).integers(0, 16, (3, 20_000))
    tables = learn_tables([codes[:, :15_000]], 16)
    assert bits_per_code(tables, codes[:, 15_000:]) == pytest.approx(4.0, abs=0.05)


def test_rare_codes_cost_more():
    """Half of the codes are 0, a quarter 1, and so on: 1.75 bits of entropy with four of them."""
    codes = np.random.default_rng(0).choice(4, size=(1, 15_000), p=[0.5, 0.25, 0.125, 0.125])
    tables = learn_tables([codes], 4)
    assert bits_per_code(tables, codes) == pytest.approx(1.75, abs=0.02)


@pytest.mark.parametrize("neighbour", ["frame before", "first stage", "stage before"])
def test_what_a_neighbour_tells_need_not_be_coded(neighbour):
    """Codes of 64 that a neighbour makes known, but for one bit."""
    chance = np.random.default_rng(0)
    codes = chance.integers(0, 64, (3, 15_000))
    shuffled, noise = chance.permutation(32), chance.integers(0, 2, 15_000)
    if neighbour == "frame before":
        for frame in range(1, codes.shape[1]):
            codes[0, frame] = 2 * shuffled[codes[0, frame - 1] // 2] + noise[frame]
    else:
        codes[2] = 2 * shuffled[codes[0 if neighbour == "first stage" else 1] // 2] + noise
    bits = bits_per_code(learn_tables([codes], 64), codes)
    told = 0 if neighbour == "frame before" else 2
    assert bits[told] < 3.6
    assert np.delete(bits, told) == pytest.approx(6, abs=0.3)


def test_the_frame_before_does_not_reach_over_a_sequence_or_a_chunk():
    codes = np.tile(np.arange(8), 500)[None]
    told = bits_per_code(learn_tables([codes], 8, frames_per_chunk=4000), codes)[0]
    untold = bits_per_code(learn_tables([codes], 8, frames_per_chunk=1), codes)[0]
    pieces = bits_per_code(learn_tables(np.split(codes, 4000, axis=1), 8), codes)[0]
    whole = bits_per_code(learn_tables([codes], 8), codes)[0]
    assert told < 0.5
    assert untold > 2.5
    assert (pieces, whole) == (untold, told)


@pytest.mark.parametrize("codebook_size", [2, 5, 300])
def test_any_codebook_size_makes_tables_that_pass_every_check(codebook_size):
    codes = np.random.default_rng(0).integers(0, codebook_size, (6, 50))
    tables = learn_tables([codes], codebook_size)
    EntropyTables.from_arrays(tables.to_arrays())
    assert (tables.num_quantizers, tables.codebook_size) == (6, codebook_size)
    assert np.array_equal(tables.decode(tables.encode(codes[None]), 1, 6, 50)[0], codes)


def test_one_frame_is_enough():
    codes = np.array([[1], [2]])
    tables = learn_tables([codes], 4)
    assert tables.decode(tables.encode(codes[None]), 1, 2, 1)[0].tolist() == codes.tolist()


@pytest.fixture(scope="module")
def speech_codes(clips):
    """Codes of each clip, of three stages of 1024 codes."""
    codec = Codec.from_pretrained("speech_16khz")
    waveforms = [torch.from_numpy(soundfile.read(clip, dtype="float32")[0])[None, None] for clip in clips]
    with torch.inference_mode():
        return [codec.encode(waveform, 3)[0].numpy() for waveform in waveforms]


def test_codes_of_a_speaker_that_nothing_was_learned_from_are_smaller_than_packed(speech_codes):
    """Of 7 s of two others; by hours, see the tables of the shipped model."""
    *learned, held_out = speech_codes
    tables = learn_tables(learned, 1024, frames_per_chunk=100)
    chunks = [held_out[None, :, start : start + 100] for start in range(0, held_out.shape[1], 100)]
    coded = sum(len(tables.encode(chunk)) for chunk in chunks)
    assert coded < 0.97 * sum(packed_size(10, chunk.size) for chunk in chunks)


def test_the_same_codes_learn_the_same_tables_with_other_threads_and_kernels(speech_codes, tmp_path):
    codes = speech_codes[0][:2] % 64
    np.save(tmp_path / "codes.npy", codes)
    program = (
        "import sys, numpy; from codec.bitstream.learn import learn_tables\n"
        "print(learn_tables([numpy.load(sys.argv[1])], 64).fingerprint)"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Sandybridge"}
    command = [sys.executable, "-c", program, str(tmp_path / "codes.npy")]
    printed = subprocess.check_output(command, cwd=ROOT, env=environment, text=True)
    assert printed.strip() == learn_tables([codes], 64).fingerprint


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "i8"])
def test_any_integer_type_learns_the_same_tables(dtype):
    codes = np.random.default_rng(0).integers(0, 16, (3, 200))
    assert learn_tables([codes.astype(dtype)], 16).fingerprint == learn_tables([codes], 16).fingerprint


@pytest.mark.parametrize(
    ("sequences", "codebook_size", "message"),
    [
        ([np.zeros((1, 3), int)], 1, "codebook_size must be 2 to 4096; got 1"),
        ([np.zeros((1, 3), int)], 4097, "codebook_size must be 2 to 4096; got 4097"),
        ([], 4, "sequences must all have the same number of stages; got no sequence"),
        ([np.zeros((1, 3), int), np.zeros((2, 3), int)], 4, r"the same number of stages; got \[1, 2\]"),
        ([np.zeros((1, 0), int)], 4, "sequences must have a frame at least; got none"),
        ([np.array([[0, 4]])], 4, "codes must be 0 to 3; got 0 to 4"),
        ([np.array([[-1, 3]])], 4, "codes must be 0 to 3; got -1 to 3"),
        ([np.zeros((60, 3), int)], 4000, "tables must have at most 65536 rows; got .*: too many stages or codes"),
    ],
)
def test_codes_that_nothing_can_be_learned_from_are_an_error(sequences, codebook_size, message):
    with pytest.raises(ValueError, match=message):
        learn_tables(sequences, codebook_size)
