"""The shipped model keeps its promises, on the clips that ship with the tests."""

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from codec import Codec
from codec.bitstream import read_stream
from codec.cli.main import app
from codec.evaluate import evaluate
from codec.model.folder import shipped_models


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_pretrained("speech_16khz")


def test_it_is_small(codec):
    folder = shipped_models()["speech_16khz"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 32_000_000
    assert sum(tensor.numel() for tensor in codec.state_dict().values()) <= 12_000_000


def test_it_has_twenty_bitrates_up_to_10_kbit_per_second(codec):
    assert [codec.bitrate(stages) for stages in range(1, 21)] == [500.0 * stages for stages in range(1, 21)]
    assert codec.latency == pytest.approx(0.06)
    assert (codec.sample_rate, codec.frame_rate, codec.codebook_size) == (16_000, 50.0, 1024)


def test_quality_rises_with_the_bitrate(codec, clips):
    rows = evaluate(codec, clips, [2500, 5000, 10_000]).rows
    for measure in ("pesq_wb", "stoi", "si_sdr"):
        scores = [getattr(row.scores, measure) for row in rows]
        assert scores == sorted(scores), measure
    assert rows[-1].scores.pesq_wb >= 2.4
    assert rows[-1].scores.stoi >= 0.9


@pytest.mark.parametrize("bitrate", [500, 2500, 5000, 10_000])
def test_ten_seconds_come_back_to_the_sample_from_a_file_smaller_than_promised(tmp_path, clips, bitrate):
    original, coded, decoded = (tmp_path / name for name in ("in.wav", "out.rvq", "out.wav"))
    speech = np.concatenate([soundfile.read(clip)[0] for clip in clips])[: 10 * 16_000 - 7]
    soundfile.write(original, speech, 16_000)
    for arguments in (["encode", original, "-o", coded, "--bitrate", bitrate], ["decode", coded, "-o", decoded]):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
    # Entropy coding keeps what it is for, beside what headers and checksums take.
    assert coded.stat().st_size <= 0.8 * bitrate * len(speech) / 16_000 / 8 + 200
    assert soundfile.info(decoded).frames == len(speech)


def test_the_file_holds_the_codes_of_the_model(tmp_path, codec, clips):
    result = CliRunner().invoke(app, ["encode", str(clips[0]), "-o", str(tmp_path / "out.rvq")])
    assert result.exit_code == 0, result.output
    stream = read_stream((tmp_path / "out.rvq").read_bytes(), codec.entropy)
    waveform = torch.from_numpy(soundfile.read(clips[0], dtype="float32")[0])[None, None]
    with torch.inference_mode():
        assert torch.equal(torch.from_numpy(stream.codes), codec.encode(waveform, rate_weight=codec.rate_weight))
    assert stream.header.fingerprint == codec.fingerprint()
