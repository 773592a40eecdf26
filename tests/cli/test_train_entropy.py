import os
import pty
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from codec import Codec
from codec.bitstream import packed_size
from codec.cli.main import app
from codec.cli.train_entropy import encode_files, measure_saving, show_steps, split_audio


@pytest.fixture
def run():
    """Run the command inside of this process."""
    return lambda *arguments: CliRunner().invoke(app, ["train-entropy", *map(str, arguments)])


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
    result = run(model, corpus, "--valid", corpus)
    assert result.exit_code == 0, result.output
    assert "learned from 9 s of audio" in result.output
    assert "measured on 9 s of audio" in result.output
    rows = re.findall(r"│ +(\d+) +│ +([\d.]+) +│ +6 +│", result.output)
    assert [int(stage) for stage, _ in rows] == list(range(1, 11))
    assert all(0 < float(bits) < 6 for _, bits in rows)
    tables = Codec.from_pretrained(model).entropy
    assert (tables.num_quantizers, tables.codebook_size) == (10, 64)


def test_files_and_a_folder_to_measure_on_can_be_given(run, model, corpus, tmp_path):
    clip, *_ = sorted(corpus.iterdir())
    (tmp_path / "valid").mkdir()
    shutil.copy(clip, tmp_path / "valid")
    result = run(model, clip, "--valid", tmp_path / "valid", "--seconds", 2, "-o", tmp_path / "tables.safetensors")
    assert result.exit_code == 0, result.output
    assert re.search("learned from 2 s of audio\nmeasured on 0 s of audio", result.output)
    assert (tmp_path / "tables.safetensors").exists()
    assert not (model / "entropy.safetensors").exists()


def test_tables_are_replaced_only_if_that_is_wanted(run, model, corpus):
    (model / "entropy.safetensors").write_bytes(b"mine")
    result = run(model, corpus)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert (model / "entropy.safetensors").read_bytes() == b"mine"


def test_tables_that_are_replaced_stay_for_the_files_that_were_coded_with_them(run, model, corpus):
    clips = sorted(corpus.iterdir())
    assert run(model, *clips, "--valid", corpus).exit_code == 0
    before = Codec.from_pretrained(model).entropy
    assert run(model, *clips, "--valid", corpus, "--overwrite").exit_code == 0
    assert Codec.from_pretrained(model).earlier_entropy == [], "the same tables once more"
    result = run(model, *clips[:2], "--valid", corpus, "--overwrite")
    assert result.exit_code == 0, result.output
    assert f"kept as {model / f'entropy-{before.fingerprint}.safetensors'}" in result.stderr
    codec = Codec.from_pretrained(model)
    assert codec.entropy.fingerprint != before.fingerprint
    assert codec.tables_of(before.fingerprint).fingerprint == before.fingerprint


def test_tables_that_are_replaced_beside_other_weights_do_not_stay(run, model, other_model_folder, corpus, tmp_path):
    assert run(model, corpus, "--valid", corpus).exit_code == 0
    output = model / "entropy.safetensors"
    assert run(other_model_folder, corpus, "--valid", corpus, "-o", output, "--overwrite").exit_code == 0
    assert sorted(path.name for path in model.glob("entropy*")) == ["entropy.safetensors"]


def test_tables_that_save_nothing_are_not_installed(run, model, corpus, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(80_000), 8000)
    result = run(model, tmp_path / "silence.wav", "--valid", corpus)
    assert result.exit_code == 1
    assert re.search(r"│ +10 +│.*-\d+\.\d%", result.output), "what they save is shown all the same"
    assert "error: tables that save nothing on audio that they were not learned from are not installed" in result.stderr
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]


def test_bad_files_are_skipped_and_listed(run, model, corpus):
    (corpus / "bad.wav").write_bytes(b"no audio")
    soundfile.write(corpus / "loud.wav", np.full(8000, 3e38, np.float32), 8000, subtype="FLOAT")
    result = run(model, corpus, "--valid", corpus)
    assert result.exit_code == 0, result.output
    assert "learned from 9 s of audio" in result.output
    assert len(re.findall(r"^warning: skipped: .*(?:bad|loud)\.wav: .", result.stderr, re.MULTILINE)) == 4
    assert "warning: files skipped: 4 of 10" in result.stderr


def test_a_device_that_is_not_there_is_an_error(run, model, corpus):
    result = run(model, corpus, "--device", "tpu")
    assert result.exit_code == 1
    assert "error: device must be cpu, cuda, cuda:N or mps; got 'tpu'" in result.stderr


def test_a_model_without_a_folder_needs_an_output(run, corpus):
    result = run("speech_16khz", corpus)
    assert result.exit_code == 2
    assert "--output" in result.stderr


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ("one", r"error: AUDIO must be two files or more, of which some are kept to measure on; or pass --valid"),
        ("empty", r"error: .*empty must be a folder with audio files"),
        ("missing.wav", r"error: .*missing\.wav: there is no such file or folder"),
        ("bad.wav", r"error: no audio to learn from can be read: .*bad\.wav: "),
    ],
)
def test_audio_that_nothing_can_be_learned_from_is_an_error(run, model, corpus, tmp_path, audio, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    shutil.copy(next(corpus.iterdir()), tmp_path / "one")
    result = run(model, tmp_path / audio, *(["--valid", corpus] if audio.endswith(".wav") else []))
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
        codes = list(encode_files(codec, [tmp_path / "stereo.wav"] * 2, 31.5, skipped := [], (shares := []).append))
    assert [each.shape for each in codes] == [(10, 1500), (10, 1500), (10, 50), (10, 50), (10, 25), (10, 25)]
    assert {each.dtype for each in codes} == {np.dtype(np.uint16)}
    assert shares == pytest.approx([30 / 31.5, 31 / 31.5, 1])
    assert skipped == []


def test_bits_weigh_as_they_will_once_there_are_tables(model_folder, tmp_path):
    codec = Codec.from_pretrained(model_folder)
    codec.config = replace(codec.config, quantizer=replace(codec.config.quantizer, rate_weight=1.0))
    codec.entropy = None
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", samples, 16_000, subtype="FLOAT")
    waveform = torch.from_numpy(samples)[None, None]
    with torch.inference_mode():
        (codes,) = encode_files(codec, [tmp_path / "noise.wav"], 1.0, [], [].append)
        weighed, nearest = codec.encode(waveform, rate_weight=1.0)[0], codec.encode(waveform)[0]
    assert np.array_equal(codes, weighed.numpy())
    assert not torch.equal(weighed, nearest)


def test_a_terminal_shows_what_is_being_done(monkeypatch):
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with show_steps(wanted=False) as report:
            report("nothing", 0.5)
        with show_steps(wanted=True) as report:
            report("encoding", 0.25)
            report("learning", None)
        terminal.flush()
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert re.search(r"encoding.* 25%", shown)
    assert "learning" in shown
    assert "nothing" not in shown


def test_the_saving_counts_every_byte(model, corpus, run):
    assert run(model, corpus, "--valid", corpus).exit_code == 0
    codec = Codec.from_pretrained(model)
    sequences = list(encode_files(codec, sorted(corpus.iterdir()), 10, []))
    saving = measure_saving(codec.entropy, sequences, bits=6, frames_per_chunk=100)
    assert saving.packed[1] == sum(packed_size(6, 2 * frames) for _ in range(3) for frames in (100, 50))
    chunks = [codes[None, :2, part] for codes in sequences for part in (slice(0, 100), slice(100, 150))]
    assert saving.coded[1] == sum(len(codec.entropy.encode(chunk)) for chunk in chunks)
    assert sum(saving.ideal) * 450 / 8 == pytest.approx(saving.coded[-1], rel=0.02)
