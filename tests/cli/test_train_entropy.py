import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
import typer
from typer.testing import CliRunner

from codec import Codec
from codec.bitstream import packed_size
from codec.cli.train_entropy import encode_files, measure_saving, split_audio, train_entropy


@pytest.fixture
def run():
    """Run the command inside of this process."""
    app = typer.Typer()
    app.command()(train_entropy)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def model(model_folder, tmp_path):
    """A model of its own, in tmp_path."""
    return shutil.copytree(model_folder, tmp_path / "model")


@pytest.fixture
def corpus(clips, tmp_path):
    """A folder with 3 s of each clip."""
    (tmp_path / "corpus").mkdir()
    for clip in clips:
        samples, sample_rate = soundfile.read(clip, stop=48_000)
        soundfile.write(tmp_path / "corpus" / f"{clip.stem}.wav", samples, sample_rate)
    return tmp_path / "corpus"


def test_the_tables_go_into_the_folder_of_the_model_and_their_saving_is_shown(run, model, corpus):
    result = run(model, corpus)
    assert result.exit_code == 0, result.output
    assert "learned from 6 s of audio" in result.output
    rows = re.findall(r"│ +(\d+) +│ +([\d.]+) +│ +6 +│", result.output)
    assert [int(stage) for stage, _ in rows] == list(range(1, 11))
    assert all(0 < float(bits) < 12 for _, bits in rows)
    tables = Codec.from_pretrained(model).entropy
    assert (tables.num_quantizers, tables.codebook_size) == (10, 64)


def test_files_and_a_folder_to_measure_on_can_be_given(run, model, corpus, tmp_path):
    clip, *_ = corpus.iterdir()
    result = run(model, clip, "--valid", corpus, "--seconds", 2, "-o", tmp_path / "tables.safetensors")
    assert result.exit_code == 0, result.output
    assert "learned from 2 s of audio" in result.output
    assert (tmp_path / "tables.safetensors").exists()
    assert not (model / "entropy.safetensors").exists()


def test_tables_are_replaced_only_if_that_is_wanted(run, model, corpus):
    (model / "entropy.safetensors").write_bytes(b"mine")
    result = run(model, corpus)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert (model / "entropy.safetensors").read_bytes() == b"mine"


def test_a_model_without_a_folder_needs_an_output(run, corpus):
    result = run("speech_16khz", corpus)
    assert result.exit_code == 2
    assert "--output" in result.stderr


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ("one", r"error: AUDIO must be two files or more, of which some are kept to measure on; or pass --valid"),
        ("empty", r"error: .*empty must be a folder with audio files"),
        ("missing.wav", r"error: .*missing\.wav"),
    ],
)
def test_audio_that_nothing_can_be_learned_from_is_an_error(run, model, corpus, tmp_path, audio, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    shutil.copy(next(corpus.iterdir()), tmp_path / "one")
    result = run(model, tmp_path / audio, *([corpus] if audio == "missing.wav" else []))
    assert result.exit_code == 1
    assert re.match(message, result.stderr)
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]


def test_a_tenth_of_the_files_is_kept_out(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02d}.wav").touch()
    learned, held_out = split_audio([tmp_path], None)
    assert (len(learned), len(held_out)) == (36, 4)
    assert len({*learned, *held_out}) == 40
    assert split_audio([tmp_path], None) == (learned, held_out)


def test_channels_and_half_minutes_are_sequences(model_folder, tmp_path):
    codec = Codec.from_pretrained(model_folder)
    samples = 0.1 * np.random.default_rng(0).standard_normal((8000 * 31, 2))
    soundfile.write(tmp_path / "stereo.wav", samples, 8000)
    with torch.inference_mode():
        shapes = [codes.shape for codes in encode_files(codec, [tmp_path / "stereo.wav"] * 2, seconds=31.5)]
    assert shapes == [(10, 1500), (10, 1500), (10, 50), (10, 50), (10, 25), (10, 25)]


def test_the_saving_counts_every_byte(model, corpus, run):
    assert run(model, corpus).exit_code == 0
    codec = Codec.from_pretrained(model)
    sequences = list(encode_files(codec, sorted(corpus.iterdir())))
    saving = measure_saving(codec.entropy, sequences, bits=6)
    assert saving.packed[1] == sum(packed_size(6, 2 * frames) for _ in range(3) for frames in (100, 50))
    chunks = [codes[None, :2, part] for codes in sequences for part in (slice(0, 100), slice(100, 150))]
    assert saving.coded[1] == sum(len(codec.entropy.encode(chunk)) for chunk in chunks)
    assert sum(saving.ideal) * 450 / 8 == pytest.approx(saving.coded[-1], rel=0.02)
