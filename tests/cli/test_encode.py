import math
import os
import re

import numpy as np
import pytest
import soundfile
import torch

from codec import Codec
from codec.audio import Audio, read_audio
from codec.bitstream import read_stream
from codec.cli.encode import encode_audio


def test_the_codes_are_those_of_the_model(speech_file, model_folder, run):
    result = run("encode", speech_file, "--model", model_folder, "--bitrate", 900)
    assert (result.exit_code, result.output) == (0, "")
    header, codes = vars(read_stream(speech_file.with_suffix(".rvq").read_bytes())).values()

    model = Codec.from_pretrained(model_folder)
    with torch.inference_mode():
        expected = model.encode(read_audio(speech_file).waveform[None], num_quantizers=3)

    assert np.array_equal(codes, expected.numpy())
    assert (header.model, header.fingerprint) == ("tiny_1", model.fingerprint())
    assert (header.sample_rate, header.channels, header.length) == (16_000, 1, 8_000)
    assert (header.num_quantizers, header.bits, header.num_frames) == (3, 6, 25)


def test_a_beam_size_widens_the_search(speech_file, model_folder, run):
    result = run("encode", speech_file, "--model", model_folder, "--beam-size", 4)
    assert (result.exit_code, result.output) == (0, "")
    codes = read_stream(speech_file.with_suffix(".rvq").read_bytes()).codes

    model = Codec.from_pretrained(model_folder)
    waveform = read_audio(speech_file).waveform[None]
    with torch.inference_mode():
        assert np.array_equal(codes, model.encode(waveform, beam_size=4).numpy())
        assert not np.array_equal(codes, model.encode(waveform).numpy())


@pytest.mark.parametrize("stages", range(1, 11))
def test_files_are_as_small_as_the_bitrate_promises(clips, tmp_path, model_folder, run, stages):
    output = tmp_path / "speech.rvq"
    result = run("encode", clips[0], "-o", output, "--model", model_folder, "--bitrate", 300 * stages)
    assert result.exit_code == 0, result.output
    info = soundfile.info(clips[0])
    promised = 300 * stages * info.frames / info.samplerate / 8
    assert output.stat().st_size <= 1.02 * promised + 200


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 192_000])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_format_rate_and_channel_count_is_encoded(tmp_path, model_folder, run, format, sample_rate, channels):
    samples = np.random.default_rng(0).normal(scale=0.1, size=(sample_rate // 10 + 7, channels))
    soundfile.write(tmp_path / "noise.audio", samples, sample_rate, format=format)
    result = run("encode", tmp_path / "noise.audio", "--model", model_folder)
    assert result.exit_code == 0, result.output
    header = read_stream((tmp_path / "noise.rvq").read_bytes()).header
    assert (header.sample_rate, header.channels, header.length) == (sample_rate, channels, len(samples))
    assert header.num_frames == math.ceil(math.ceil(len(samples) * 16_000 / sample_rate) / 320)


def test_every_channel_is_encoded_on_its_own(speech, model_folder):
    model = Codec.from_pretrained(model_folder)
    channels = speech.reshape(2, -1)
    together = encode_audio(Audio(channels, 16_000), model, bitrate=3000)
    for index, channel in enumerate(channels):
        alone = encode_audio(Audio(channel[None], 16_000), model, bitrate=3000)
        assert np.array_equal(together.codes[[index]], alone.codes)


def test_one_sample_is_enough(tmp_path, model_folder, run):
    soundfile.write(tmp_path / "click.wav", np.array([0.5]), 48_000)
    assert run("encode", tmp_path / "click.wav", "--model", model_folder).exit_code == 0
    assert read_stream((tmp_path / "click.rvq").read_bytes()).header.num_frames == 1


def test_an_output_that_exists_is_kept_unless_told(speech_file, model_folder, run):
    output = speech_file.with_suffix(".rvq")
    output.write_text("old")
    result = run("encode", speech_file, "--model", model_folder)
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: {output}: exists already; pass --overwrite to replace it\n",
    )
    assert output.read_text() == "old"
    assert run("encode", speech_file, "--model", model_folder, "--overwrite").exit_code == 0
    assert read_stream(output.read_bytes()).header.length == 8_000


@pytest.fixture
def bad_files(tmp_path):
    folder = tmp_path / "bad"
    (folder / "folder").mkdir(parents=True)
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("This is no audio.\n" * 100)
    soundfile.write(folder / "silent.wav", np.zeros((0, 1)), 16_000)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    soundfile.write(folder / "good.wav", np.zeros(1000), 16_000)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.wav"], "missing.wav: No such file or directory"),
        (["folder"], "folder: Is a directory"),
        (["."], ".: Is a directory"),
        (["empty.wav"], "empty.wav: is an empty file"),
        (["text.wav"], "text.wav: not readable as audio (Format not recognised)"),
        (["silent.wav"], "silent.wav: holds no samples"),
        (["nan.wav"], "nan.wav: holds NaN or infinite samples"),
        (["good.wav", "-o", "missing/good.rvq"], "missing/good.rvq: there is no folder missing"),
        (["good.wav", "-o", "good.wav"], "good.wav: output must be another file than the input"),
        (["good.wav", "-o", "./good.wav", "--overwrite"], "good.wav: output must be another file than the input"),
        (["good.wav", "-o", "folder"], "folder: output must be a file; there is something else of that name"),
        (
            ["good.wav", "--bitrate", "1000"],
            "bitrate must be one that the model tiny_1 has, 300, 600, 900, 1200, 1500, 1800, 2100, 2400, 2700, "
            "3000 bit/s; got 1000",
        ),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_leaves_nothing(
    bad_files, model_folder, run, monkeypatch, arguments, message
):
    monkeypatch.chdir(bad_files)
    before = sorted(os.walk("."))
    result = run("encode", "--model", model_folder, *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"error: {message}\n")
    assert sorted(os.walk(".")) == before


def test_an_unknown_model_is_one_line_on_stderr(speech_file, run):
    result = run("encode", speech_file, "--model", "no_such_model")
    assert result.exit_code == 1
    assert re.fullmatch("error: .*no_such_model.*\n", result.stderr)
    assert os.listdir(speech_file.parent) == ["speech.wav"]


def test_the_real_command_fails_without_a_traceback(tmp_path, run_process):
    result = run_process("encode", tmp_path / "missing.wav")
    assert result == (1, "", f"error: {tmp_path / 'missing.wav'}: No such file or directory\n")
