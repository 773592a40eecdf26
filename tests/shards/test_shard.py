import math
import os
import shutil
import tarfile
import tempfile
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.backends import cuda, cudnn

from codec import Codec
from codec.audio import read_audio, resample
from codec.corpora.find import find_recordings
from codec.shards.job import finish_job, plan_job, start_job
from codec.shards.parquet import read_rows
from codec.shards.shard import PASSING, length_batches, make_shard
from codec.shards.token_files import TokenFiles

# Of codes whose two nearest code vectors are equally near to the last digit of float32, another one may come out.
NEAR_TIES = 1e-5


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_pretrained("speech_16khz")


@pytest.fixture(scope="module")
def corpus(clips, tmp_path_factory) -> Path:
    """Real speech of many lengths, at four rates, some of it of several channels."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    for number in range(24):
        samples, rate = soundfile.read(clips[number % len(clips)], dtype="float32")
        start, length = random.integers(len(samples) // 2), random.integers(1, len(samples) // 2)
        waveform = samples[start : start + length]
        if number % 4 == 3:
            waveform = np.stack([waveform, 0.3 * np.roll(waveform, 7), 0 * waveform], axis=1)
        soundfile.write(folder / f"{number:02d}.wav", waveform, [rate, 8_000, 22_050, 44_100][number // 6], "FLOAT")
    return folder


def tokenize(folder: Path, codec: Codec, source: Path, **options):
    """One shard of all that is in `source`; its record and its rows."""
    recordings = find_recordings([source])
    start_job(folder, plan_job(codec, recordings, **options), recordings)
    record = make_shard(folder, 0, codec)
    return record, list(read_rows(folder / "shard-00000.parquet"))


def encode_alone(codec: Codec, path: Path, num_quantizers: int | None = None) -> np.ndarray:
    """What a user of the library would write."""
    waveform, rate = read_audio(path)
    mono = resample(waveform.mean(dim=0), rate, codec.sample_rate)
    with torch.inference_mode():
        return codec.encode(mono[None, None], num_quantizers)[0].numpy()


@pytest.mark.parametrize("batch_seconds", [4.0, 1.0])
def test_codes_are_those_of_each_file_alone(tmp_path, codec, corpus, batch_seconds) -> None:
    """Also of those that are streamed: with 1 s, most."""
    _, rows = tokenize(tmp_path, codec, corpus, batch_seconds=batch_seconds)
    paths = sorted(corpus.iterdir())
    assert [row.id for row in rows] == [path.stem for path in paths]
    alone = [encode_alone(codec, path) for path in paths]
    assert [row.codes.shape for row in rows] == [codes.shape for codes in alone]
    different = sum(int((row.codes != codes).sum()) for row, codes in zip(rows, alone, strict=True))
    assert different <= math.ceil(NEAR_TIES * sum(codes.size for codes in alone))


def test_without_a_beam_the_first_stages_alone_are_those_of_all(tmp_path, codec, librispeech, monkeypatch) -> None:
    greedy = replace(codec.config, quantizer=replace(codec.config.quantizer, beam_size=1))
    monkeypatch.setattr(codec, "config", greedy)
    _, whole = tokenize(tmp_path / "whole", codec, librispeech / "dev-clean")
    _, first = tokenize(tmp_path / "first", codec, librispeech / "dev-clean", num_quantizers=3)
    assert len(whole) == 1
    np.testing.assert_array_equal(first[0].codes, whole[0].codes[:3])


def test_rows_say_what_is_known_of_a_recording(tmp_path, codec, librispeech) -> None:
    record, rows = tokenize(tmp_path, codec, librispeech / "train-clean-100", num_quantizers=1)
    assert [row.speaker for row in rows] == ["1963", "1963", "3259", "3259", "6181", "6181"]
    assert all(row.id.split("-")[0].endswith(row.speaker) for row in rows)
    assert [row.duration for row in rows] == [1.0] * 6
    assert all((librispeech / row.source).exists() for row in rows)
    assert (record.clips, record.seconds, record.frames) == (6, 6.0, 300)


def test_tokens_decode_to_the_codes(tmp_path, codec, librispeech) -> None:
    _, rows = tokenize(tmp_path, codec, librispeech, pattern="delay", num_quantizers=4)
    finish_job(tmp_path)
    tokens = TokenFiles(tmp_path)
    for row, ids in zip(rows, tokens, strict=True):
        codes = tokens.tokenizer.decode(torch.from_numpy(ids.astype(np.int64)))
        np.testing.assert_array_equal(codes.numpy(), row.codes)


def test_files_are_the_same_to_the_last_bit_whatever_the_threads(tmp_path, codec, librispeech) -> None:
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            tokenize(tmp_path / str(threads), codec, librispeech)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "12")
    assert one == two


def test_bad_recordings_are_listed_and_leave_the_others_as_they_are(tmp_path, codec, clips) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    samples, rate = soundfile.read(clips[0], dtype="float32", frames=16_000)
    for name in ("a", "z"):
        soundfile.write(folder / f"{name}.wav", samples, rate)
    _, good = tokenize(tmp_path / "good", codec, folder)

    (folder / "empty.wav").touch()
    (folder / "letter.flac").write_text("Dear Sir or Madam")
    soundfile.write(folder / "loud.wav", samples * 3e38, rate, "FLOAT")
    soundfile.write(folder / "nan.wav", np.where(samples == samples.max(), np.nan, samples), rate, "FLOAT")
    soundfile.write(folder / "none.wav", samples[:0], rate)
    cut = (folder / "a.wav").read_bytes()
    (folder / "cut.wav").write_bytes(cut[: len(cut) // 2])
    (folder / "hardly_cut.wav").write_bytes(cut[:-200])
    damaged = clips[0].read_bytes()
    (folder / "damaged.flac").write_bytes(damaged[: len(damaged) // 2])
    for batch_seconds in (60.0, 0.5):  # together, and streamed
        record, rows = tokenize(tmp_path / str(batch_seconds), codec, folder, batch_seconds=batch_seconds)
        assert [row.id for row in rows] == ["a", "hardly_cut", "z"]
        for row, expected in zip((rows[0], rows[2]), good, strict=True):
            np.testing.assert_array_equal(row.codes, expected.codes)
        problems = {error.id: error.problem for error in record.errors}
        assert list(problems) == sorted(problems)
        assert problems.keys() == {"cut", "damaged", "empty", "letter", "loud", "nan", "none"}
        assert problems["empty"] == "is an empty file"
        assert problems["nan"] == "holds NaN or infinite samples"
        assert problems["none"] == "holds no samples"
        assert problems["cut"] == "header promises 1.00 s, 0.50 s are there"
        assert "about in [-1, 1]" in problems["loud"]
        assert "not readable as audio" in problems["letter"]
        assert all(str(folder) not in problem for problem in problems.values())


def test_a_shard_of_which_nothing_can_be_opened_fails_unless_that_is_accepted(tmp_path, codec, librispeech) -> None:
    folder = shutil.copytree(librispeech / "train-clean-100", tmp_path / "corpus")
    recordings = find_recordings([folder])
    start_job(tmp_path / "out", plan_job(codec, recordings, num_quantizers=1), recordings)
    folder.rename(tmp_path / "away")
    message = (
        "none of its 6 recordings can be read, the first of them .*0000.flac: No such file or directory; if they are "
        "gone for good, --accept-missing lists them as bad"
    )
    with pytest.raises(OSError, match=message):
        make_shard(tmp_path / "out", 0, codec)
    assert not list((tmp_path / "out").glob("shard-*"))
    record = make_shard(tmp_path / "out", 0, codec, accept_missing=True)
    assert [error.problem for error in record.errors] == ["No such file or directory"] * 6

    # One that is there is enough: then the others are bad.
    (tmp_path / "away").rename(folder)
    for recording in recordings[:-1]:
        Path(recording.place.path).unlink()
    start_job(tmp_path / "one", plan_job(codec, recordings, num_quantizers=1), recordings)
    record = make_shard(tmp_path / "one", 0, codec)
    assert (record.clips, len(record.errors)) == (1, 5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no disk that is full")
def test_a_disk_that_is_full_fails_the_shard(tmp_path, codec, clips, monkeypatch) -> None:
    with tarfile.open(tmp_path / "corpus.tar", "w") as archive:
        for clip in clips[:2]:
            archive.add(clip, clip.name)
    recordings = find_recordings([tmp_path / "corpus.tar"])
    start_job(tmp_path / "out", plan_job(codec, recordings, num_quantizers=1), recordings)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", partial(Path("/dev/full").open, "w+b", buffering=0))
        with pytest.raises(OSError, match=r"No space left on device: '.*corpus.tar:.*flac'"):
            make_shard(tmp_path / "out", 0, codec)
    assert not list((tmp_path / "out").glob("shard-*"))
    assert make_shard(tmp_path / "out", 0, codec).clips == 2


@pytest.mark.parametrize("number", sorted(PASSING))
def test_what_passes_fails_the_shard(tmp_path, codec, librispeech, monkeypatch, number) -> None:
    """Whatever wrapped it."""

    def fail(path, *options, **named) -> None:
        raise OSError(number, os.strerror(number), path)

    recordings = find_recordings([librispeech / "dev-clean"])
    start_job(tmp_path, plan_job(codec, recordings), recordings)
    monkeypatch.setattr("codec.audio.source.FileIO", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        make_shard(tmp_path, 0, codec)
    assert (caught.value.errno, caught.value.filename) == (number, recordings[0].source)


def test_a_finished_shard_is_not_made_again(tmp_path, codec, librispeech) -> None:
    record, _ = tokenize(tmp_path, codec, librispeech / "dev-clean")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert make_shard(tmp_path, 0, codec) == record
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_progress_counts_every_recording(tmp_path, codec, librispeech) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "empty.wav").touch()
    recordings = find_recordings([librispeech / "dev-clean", tmp_path / "corpus"])
    start_job(tmp_path / "out", plan_job(codec, recordings), recordings)
    counts = []
    make_shard(tmp_path / "out", 0, codec, counts.append)
    assert sum(counts) == len(recordings) == 2


def test_codes_are_made_in_full_precision_whatever_the_program_allows(
    tmp_path, codec, librispeech, monkeypatch
) -> None:
    encode, seen = Codec.encode, []

    def look(self, *arguments, **options):
        seen.append((cudnn.conv.fp32_precision, cuda.matmul.fp32_precision, cudnn.deterministic))
        return encode(self, *arguments, **options)

    monkeypatch.setattr(Codec, "encode", look)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert cudnn.allow_tf32
        tokenize(tmp_path, codec, librispeech / "dev-clean")
        assert seen == [("ieee", "ieee", True)]
        assert torch.get_float32_matmul_precision() == "high"
        assert (cudnn.allow_tf32, cuda.matmul.allow_tf32, cudnn.deterministic) == (True, True, False)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_codes_are_those_of_each_file_alone_and_nearly_those_of_the_cpu(tmp_path, codec, corpus) -> None:
    _, on_cpu = tokenize(tmp_path / "cpu", codec, corpus)
    on_gpu = Codec.from_pretrained("speech_16khz").to("cuda")
    _, rows = tokenize(tmp_path / "gpu", on_gpu, corpus)
    recordings = find_recordings([corpus])
    start_job(tmp_path / "alone", plan_job(on_gpu, recordings, shard_size=1), recordings)
    for index in range(len(recordings)):
        make_shard(tmp_path / "alone", index, on_gpu)
    alone = [row for path in sorted((tmp_path / "alone").glob("*.parquet")) for row in read_rows(path)]
    for others in (alone, on_cpu):
        different = sum(int((row.codes != other.codes).sum()) for row, other in zip(rows, others, strict=True))
        assert different <= math.ceil(1e-4 * sum(row.codes.size for row in rows))


def test_another_codec_is_refused(tmp_path, codec, librispeech) -> None:
    recordings = find_recordings([librispeech])
    start_job(tmp_path, plan_job(codec, recordings), recordings)
    other = Codec.from_pretrained("speech_16khz")
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(ValueError, match=f"codec must have the weights {codec.fingerprint()} of the job .*; got "):
        make_shard(tmp_path, 0, other)


def test_another_search_for_codes_is_refused(tmp_path, codec, librispeech) -> None:
    recordings = find_recordings([librispeech])
    start_job(tmp_path, plan_job(codec, recordings), recordings)
    other = Codec.from_pretrained("speech_16khz")
    beams = codec.beam_size + 1
    quantizer = replace(other.config.quantizer, beam_size=beams)
    other.config = replace(other.config, quantizer=quantizer)
    with pytest.raises(ValueError, match=f"codec must have the beam_size {codec.beam_size} of the job .*; got {beams}"):
        make_shard(tmp_path, 0, other)


@given(st.lists(st.floats(0.01, 20), max_size=30), st.floats(1, 60))
def test_batches_hold_each_once_within_the_limit(lengths, limit) -> None:
    batches = list(length_batches(dict(enumerate(lengths)), limit))
    assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
    in_order = [lengths[number] for batch in batches for number in batch]
    assert in_order == sorted(lengths)
    assert all(len(batch) == 1 or len(batch) * lengths[batch[-1]] <= limit for batch in batches)
    assert all((len(batch) + 1) * lengths[after[0]] > limit for batch, after in pairwise(batches))


def test_batches_of_a_hand_computed_example() -> None:
    seconds = {0: 5.0, 1: 1.0, 2: 12.0, 3: 2.0, 4: 5.0}
    assert list(length_batches(seconds, 10.0)) == [[1, 3], [0, 4], [2]]
