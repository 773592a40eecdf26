import json
import math
import os
import sys

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from codec.bitstream import verify
from codec.cli.roundtrip import Original, picture_title
from codec.evaluate import mel_distance, pesq_wb, si_sdr, stoi


@pytest.fixture
def speech_file(tmp_path, clips):
    """A WAV file of 3 s of speech, alone in its folder."""
    samples, sample_rate = soundfile.read(clips[-1], frames=48_000)
    (tmp_path / "work").mkdir()
    soundfile.write(tmp_path / "work" / "speech.wav", samples, sample_rate)
    return tmp_path / "work" / "speech.wav"


@pytest.fixture
def measure(run, model_folder):
    """What `codec roundtrip --json` says."""

    def measure(*arguments) -> dict:
        result = run("roundtrip", "--model", model_folder, "--json", *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    return measure


def test_it_is_what_encoding_and_decoding_give(speech_file, model_folder, run, measure, tmp_path):
    codes, decoded, output = (tmp_path / name for name in ("speech.rvq", "decoded.wav", "output.wav"))
    assert run("encode", speech_file, "-o", codes, "--model", model_folder, "--bitrate", "1.5k").exit_code == 0
    assert run("decode", codes, "-o", decoded, "--model", model_folder).exit_code == 0
    measured = measure(speech_file, "--bitrate", "1500", "-o", output)
    (trial,) = measured.pop("trials")

    assert output.read_bytes() == decoded.read_bytes()
    original, estimate = (soundfile.read(path)[0] for path in (speech_file, decoded))
    assert measured == {
        "file": str(speech_file),
        "seconds": 3.0,
        "sample_rate": 16_000,
        "channels": 1,
        "peak": pytest.approx(20 * math.log10(abs(original).max())),
        "model": "tiny_1",
        "score_rate": 16_000,
    }
    assert min(trial.pop("encode_speed"), trial.pop("decode_speed")) > 0
    with codes.open("rb") as file:
        payload_bytes = verify(file).payload_bytes
    assert trial == pytest.approx(
        {
            "num_quantizers": 5,
            "bitrate": 8 * codes.stat().st_size / 3,
            "payload_bitrate": 8 * payload_bytes / 3,
            "compression": 2 * len(original) / codes.stat().st_size,
            "pesq_wb": pesq_wb(original, estimate, 16_000),
            "stoi": stoi(original, estimate, 16_000),
            "si_sdr": si_sdr(original, estimate),
            "mel_distance": mel_distance(original, estimate, 16_000),
            "peak": 20 * math.log10(abs(estimate).max()),
        },
        rel=1e-5,
    )


def test_one_bitrate_is_a_list_and_several_are_a_line_each(speech_file, model_folder, run):
    one = run("roundtrip", speech_file, "--model", model_folder, "--stages", 2)
    assert one.exit_code == 0, one.output
    assert [line.split("  ")[0] for line in one.stdout.splitlines()] == [
        *("file", "duration", "sample rate", "channels", "peak", "model", "scores at"),
        *("stages", "on disk", "codes alone", "compression", "PESQ-WB", "STOI", "SI-SDR", "mel distance"),
        *("decoded peak", "encoding", "decoding"),
    ]
    several = run("roundtrip", speech_file, "--model", model_folder, "--bitrate", "3k", "--bitrate", 600)
    head, _, table = several.stdout.partition("\n\n")
    headings, *rows = (line.split() for line in table.splitlines())
    assert [line.split() for line in head.splitlines()] == [line.split() for line in one.stdout.splitlines()[:7]]
    assert " ".join(headings) == "stages bit/s codes ratio PESQ-WB STOI SI-SDR mel peak encode decode"
    assert [row[0] for row in rows] == ["10", "2"]
    # All but the speeds, which are never the same.
    values = [line[len("mel distance  ") :].split()[0] for line in one.stdout.splitlines()[7:16]]
    assert rows[1][:9] == values


def test_scores_are_means_over_the_channels(clips, tmp_path, measure):
    channels = [soundfile.read(clip, frames=32_000)[0] for clip in clips[:2]]
    for name, samples in (("0", channels[0]), ("1", channels[1]), ("both", np.stack(channels, axis=1))):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
    *single, both = (measure(tmp_path / f"{name}.wav") for name in ("0", "1", "both"))
    assert both["channels"] == 2
    for score in ("pesq_wb", "stoi", "si_sdr", "mel_distance"):
        expected = np.mean([each["trials"][0][score] for each in single])
        assert both["trials"][0][score] == pytest.approx(expected, rel=1e-3), score
    assert both["peak"] == max(each["peak"] for each in single)


@pytest.mark.parametrize(("sample_rate", "score_rate"), [(8_000, 8_000), (48_000, 16_000)])
def test_what_the_model_cannot_carry_is_not_scored(tmp_path, measure, sample_rate, score_rate):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "noise.wav", rng.normal(scale=0.1, size=sample_rate), sample_rate)
    measured = measure(tmp_path / "noise.wav", "--output", tmp_path / "decoded.wav")
    original, estimate = (soundfile.read(tmp_path / name)[0] for name in ("noise.wav", "decoded.wav"))
    assert (measured["sample_rate"], measured["score_rate"], len(estimate)) == (sample_rate, score_rate, sample_rate)
    if sample_rate == score_rate:
        assert measured["trials"][0]["mel_distance"] == pytest.approx(
            mel_distance(original, estimate, sample_rate), rel=1e-5
        )
    else:
        assert measured["trials"][0]["mel_distance"] < mel_distance(original, estimate, sample_rate) / 2


def test_where_there_is_nothing_to_judge_json_says_null(tmp_path, measure):
    soundfile.write(tmp_path / "silent.wav", np.zeros(1000), 16_000)
    measured = measure(tmp_path / "silent.wav")
    assert measured["peak"] is None
    assert [measured["trials"][0][score] for score in ("pesq_wb", "stoi", "si_sdr", "mel_distance")] == [None] * 4


@pytest.mark.parametrize(("channels", "sample_rate", "length"), [(1, 8_000, 1), (2, 48_000, 30_000)])
def test_a_picture_is_drawn(tmp_path, measure, channels, sample_rate, length):
    samples = np.random.default_rng(0).normal(scale=0.1, size=(length, channels))
    soundfile.write(tmp_path / "noise.wav", samples, sample_rate)
    measure(tmp_path / "noise.wav", "--picture", tmp_path / "noise.png")
    height, width, _ = imread(tmp_path / "noise.png").shape
    assert (width, height) == (900, 960)


def test_the_title_of_a_picture_says_what_is_shown():
    original = Original("folder/speech.wav", 1.0, 16_000, 1, -1.0, "tiny", 16_000)
    stereo = Original("folder/speech.wav", 1.0, 16_000, 2, -1.0, "tiny", 16_000)
    assert picture_title(original, 2999.6) == "speech.wav, 3000 bit/s"
    assert picture_title(stereo, 6000.0) == "speech.wav, 6000 bit/s, channel 1 of 2"


def test_nothing_is_left_but_what_was_asked_for(speech_file, measure):
    measure(speech_file)
    assert os.listdir(speech_file.parent) == ["speech.wav"]
    measure(speech_file, "-o", speech_file.with_name("decoded.wav"))
    assert sorted(os.listdir(speech_file.parent)) == ["decoded.wav", "speech.wav"]


def test_without_the_extra_the_other_scores_are_shown(speech_file, model_folder, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    result = run("roundtrip", speech_file, "--model", model_folder, "--json")
    (trial,) = json.loads(result.stdout)["trials"]
    assert trial["pesq_wb"] is None
    assert None not in (trial["stoi"], trial["si_sdr"], trial["mel_distance"])
    assert result.stderr.endswith("scores that are missing need more packages: pip install 'rvq-codec[eval]'\n")


def test_without_the_extra_a_picture_is_refused_and_leaves_nothing(speech_file, model_folder, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    picture, output = (speech_file.with_name(name) for name in ("out.png", "out.wav"))
    result = run("roundtrip", speech_file, "--model", model_folder, "--picture", picture, "-o", output)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: matplotlib must be installed for pictures: pip install 'rvq-codec[eval]'\n"
    assert os.listdir(speech_file.parent) == ["speech.wav"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.wav"], 1, "error: missing.wav: No such file or directory"),
        (["speech.wav", "-o", "speech.wav"], 1, "error: speech.wav: output must be another file than the input"),
        (["speech.wav", "--picture", "old.png"], 1, "error: old.png: exists already; pass --overwrite to replace it"),
        (["speech.wav", "--bitrate", "1000"], 1, "error: bitrate must be one that the model tiny_1 has, 300, 600"),
        (["speech.wav", "--stages", "11"], 1, "error: stages must be 1 to 10, as the model tiny_1 has; got 11"),
        (["speech.wav", "--bitrate", "3k", "--stages", "1"], 2, "--bitrate and --stages exclude each other"),
        (
            ["speech.wav", "--bitrate", "3k", "--bitrate", "300", "-o", "a.wav"],
            2,
            "--output and --picture are of one bitrate; got several",
        ),
    ],
)
def test_wrong_arguments_are_refused_and_leave_nothing(
    speech_file, model_folder, run, monkeypatch, arguments, status, message
):
    monkeypatch.chdir(speech_file.parent)
    speech_file.with_name("old.png").write_text("old")
    result = run("roundtrip", "--model", model_folder, *arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in " ".join(result.stderr.split())
    assert sorted(os.listdir()) == ["old.png", "speech.wav"]
    assert speech_file.with_name("old.png").read_text() == "old"
