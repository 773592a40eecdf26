import math
import os
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from codec import Codec
from codec.audio import read_audio
from codec.bitstream import read_stream
from codec.cli.encode import parse_bitrate


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


def test_the_search_is_that_of_the_model(speech_file, model_folder, tmp_path, run):
    model = Codec.from_pretrained(model_folder)
    model.config = replace(model.config, quantizer=replace(model.config.quantizer, beam_size=4))
    model.save_pretrained(tmp_path / "searching")
    with torch.inference_mode():
        expected = model.encode(read_audio(speech_file).waveform[None], beam_size=4).numpy()
    for options, searched in (((), True), (("--beam-size", 1), False)):
        output = tmp_path / f"{searched}.rvq"
        result = run("encode", speech_file, "-o", output, "--model", tmp_path / "searching", *options)
        assert result.exit_code == 0, result.output
        assert np.array_equal(read_stream(output.read_bytes()).codes, expected) == searched


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


def test_every_channel_is_encoded_on_its_own(tmp_path, speech, model_folder, run):
    channels = speech.reshape(2, -1)[:, :16_000].numpy()
    soundfile.write(tmp_path / "both.wav", channels.T, 16_000, subtype="FLOAT")
    for index, channel in enumerate(channels):
        soundfile.write(tmp_path / f"{index}.wav", channel, 16_000, subtype="FLOAT")
    assert run("encode", tmp_path, "--model", model_folder).exit_code == 0
    both = read_stream((tmp_path / "both.rvq").read_bytes()).codes
    for index in range(2):
        assert np.array_equal(both[[index]], read_stream((tmp_path / f"{index}.rvq").read_bytes()).codes)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 30.0])
def test_nothing_is_normalized(tmp_path, speech, model_folder, run, scale):
    """Very quiet and clipped speech have the codes that the model gives them as they are."""
    samples = np.clip(scale * speech[0, :, :16_000].numpy(), -1, 1)
    soundfile.write(tmp_path / "a.wav", samples.T, 16_000, subtype="FLOAT")
    assert run("encode", tmp_path / "a.wav", "--model", model_folder).exit_code == 0
    with torch.inference_mode():
        expected = Codec.from_pretrained(model_folder).encode(torch.from_numpy(samples)[None])
    assert np.array_equal(read_stream((tmp_path / "a.rvq").read_bytes()).codes, expected.numpy())


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


SUFFIXES = ".aif, .aiff, .flac, .mp3, .ogg, .opus, .wav"


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
        (["folder"], f"folder: holds no files of {SUFFIXES}; --recursive looks into the folders in it, too"),
        (["folder", "-r"], f"folder: holds no files of {SUFFIXES}"),
        (["empty.wav"], "empty.wav: is an empty file"),
        (["text.wav"], "text.wav: not readable as audio (Format not recognised)"),
        (["silent.wav"], "silent.wav: holds no samples"),
        (["nan.wav"], "nan.wav: holds NaN or infinite samples"),
        (["good.wav", "-o", "missing/good.rvq"], "missing/good.rvq: there is no folder missing"),
        (["good.wav", "-o", "good.wav"], "good.wav: output must be another file than the input"),
        (["good.wav", "-o", "./good.wav", "--overwrite"], "good.wav: output must be another file than the input"),
        (["good.wav", "--stages", "11"], "stages must be 1 to 10, as the model tiny_1 has; got 11"),
        (
            ["good.wav", "--entropy"],
            "--entropy needs a model with tables, which tiny_1 lacks; codec train-entropy makes them",
        ),
        (
            ["good.wav", "--device", "tpu"],
            "device must be cpu, cuda, cuda:N or mps; got 'tpu'",
        ),
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


@pytest.mark.parametrize(
    ("text", "bitrate"), [("6000", 6000), ("3k", 3000), ("1.5k", 1500), ("0.5K", 500), ("1500.0", 1500), ("2.2k", 2200)]
)
def test_bitrates_are_in_bit_or_kbit(text, bitrate):
    assert parse_bitrate(text) == bitrate


@pytest.mark.parametrize("text", ["", "k", "0", "-3k", "3 k", "3kbit", "1e3", "nan", "inf", "1.2.3", "٣"])
def test_other_bitrates_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"bitrate must be bit/s, such as 6000 or 1.5k; got {text!r}")):
        parse_bitrate(text)


@pytest.mark.parametrize("option", [["--bitrate", "0.9k"], ["--stages", 3]])
def test_stages_are_chosen_by_bitrate_or_number(speech_file, model_folder, run, option):
    assert run("encode", speech_file, "--model", model_folder, *option).exit_code == 0
    assert read_stream(speech_file.with_suffix(".rvq").read_bytes()).header.num_quantizers == 3


@pytest.mark.parametrize(
    "options",
    [
        ["--bitrate", "3k", "--stages", "6"],
        ["--bitrate", "many"],
        ["--skip-existing", "--overwrite"],
        ["--raw", "16000"],
        ["--jobs", "0"],
        ["-"],
        ["-o", "-", "-"],
    ],
)
def test_wrong_usage_is_refused_before_anything_is_done(speech_file, run, options):
    result = run("encode", speech_file, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
    assert os.listdir(speech_file.parent) == ["speech.wav"]


def test_the_header_that_lies_is_a_warning(speech_file, model_folder, run):
    whole = speech_file.read_bytes()
    speech_file.write_bytes(whole[:-8000])
    result = run("encode", speech_file, "--model", model_folder)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"warning: {speech_file}: header promises 0.50 s, 0.25 s are there\n"
    assert read_stream(speech_file.with_suffix(".rvq").read_bytes()).header.length == 4_000


def test_standard_input_and_output_give_what_files_give(speech_file, model_folder, run, start_python):
    assert run("encode", speech_file, "--model", model_folder).exit_code == 0
    expected = read_stream(speech_file.with_suffix(".rvq").read_bytes())
    command = ["-m", "codec.cli.main", "encode", "-", "-o", "-", "--model", model_folder]
    process = start_python(*command, stdin=subprocess.PIPE, text=False)
    stdout, stderr = process.communicate(speech_file.read_bytes(), timeout=300)
    assert (process.returncode, stderr) == (0, b"")
    assert np.array_equal(read_stream(stdout).codes, expected.codes)


def test_raw_samples_are_coded_as_they_arrive(clips, model_folder, start_python):
    """The codes of the first chunks come out while the input is still open."""
    samples, _ = soundfile.read(clips[-1], dtype="int16")
    command = ["-m", "codec.cli.main", "encode", "-", "--raw", "16000:1:s16", "-o", "-", "--model", model_folder]
    process = start_python(*command, stdin=subprocess.PIPE, text=False)
    process.stdin.write(samples.tobytes())
    process.stdin.flush()
    received = b""
    while len(received) < 2 * 10 * 100 * 6 / 8:  # two chunks of 2 s, ten stages of 6 bits
        data = os.read(process.stdout.fileno(), 1 << 16)
        assert data, process.communicate()
        received += data
    rest, _ = process.communicate(timeout=300)
    header = read_stream(received + rest).header
    assert process.returncode == 0
    assert (header.sample_rate, header.channels, header.num_frames) == (16_000, 1, math.ceil(len(samples) / 320))
