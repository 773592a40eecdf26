import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from codec.audio import resample
from codec.evaluate import mel_distance, pesq_wb, si_sdr, stoi
from codec.evaluate.metrics import PESQ_LOWEST, _mel_decibels, mean_of_known

SAMPLE_RATE = 16_000
WITH_RATE = [pesq_wb, stoi, mel_distance]


def score(metric, reference, estimate) -> float:
    return metric(reference, estimate, SAMPLE_RATE) if metric in WITH_RATE else metric(reference, estimate)


@pytest.fixture
def signal(speech: Tensor) -> Tensor:
    return speech.flatten()


def with_noise(signal: Tensor, decibels: float) -> Tensor:
    """Add white noise at a signal-to-noise ratio."""
    noise = torch.randn_like(signal)
    return signal + noise * signal.norm() / noise.norm() * 10 ** (-decibels / 20)


def test_equal_signals_get_the_best_score(signal: Tensor) -> None:
    # The end of the mapping in P.862.2 at the highest raw score: 0.999 + 4 / (1 + exp(-1.3669 * 4.5 + 3.8224)).
    assert pesq_wb(signal, signal, SAMPLE_RATE) == pytest.approx(4.6439, abs=1e-4)
    assert stoi(signal, signal, SAMPLE_RATE) == pytest.approx(1.0)
    assert si_sdr(signal, signal) == math.inf
    assert mel_distance(signal, signal, SAMPLE_RATE) == 0


@pytest.mark.parametrize("clip", range(3))
@pytest.mark.parametrize("metric", [pesq_wb, stoi, si_sdr])
def test_more_noise_gets_a_lower_score(metric, clip: int, clips: list[Path]) -> None:
    signal = torch.from_numpy(soundfile.read(clips[clip], dtype="float32")[0])
    clean, noisy, noisier = (score(metric, signal, with_noise(signal, decibels)) for decibels in (30, 15, 0))
    assert clean > noisy > noisier


def test_more_noise_gives_a_greater_mel_distance(signal: Tensor) -> None:
    clean, noisy, noisier = (mel_distance(signal, with_noise(signal, level), SAMPLE_RATE) for level in (30, 15, 0))
    assert 0 < clean < noisy < noisier


def test_si_sdr_of_a_constructed_case() -> None:
    # The estimate is twice the reference plus an orthogonal part: 10 log10((2^2 * 4) / (0.4^2 * 4)) = 13.98 dB.
    reference = torch.tensor([1.0, 1.0, -1.0, -1.0])
    estimate = 2 * reference + 0.4 * torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert si_sdr(reference, estimate) == pytest.approx(20 * math.log10(5))


def test_si_sdr_ignores_the_scale_of_the_estimate(signal: Tensor) -> None:
    noisy = with_noise(signal, 10).double()
    assert si_sdr(signal, 0.01 * noisy) == pytest.approx(si_sdr(signal, noisy))


def test_si_sdr_of_independent_noise_is_the_signal_to_noise_ratio(signal: Tensor) -> None:
    assert si_sdr(signal, with_noise(signal, 10)) == pytest.approx(10, abs=0.1)


def test_si_sdr_of_an_orthogonal_estimate_is_minus_infinity() -> None:
    assert si_sdr(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == -math.inf


def test_half_the_amplitude_is_six_decibels_of_mel_distance() -> None:
    # Noise, whose every band is far above the floor.
    signal = torch.randn(SAMPLE_RATE)
    assert mel_distance(signal, signal / 2, SAMPLE_RATE) == pytest.approx(20 * math.log10(2))


def test_the_mel_bands_of_a_tone_hold_its_power() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    spectrogram = _mel_decibels(np.sin(2 * np.pi * 1000 * time), SAMPLE_RATE)
    # 1000 Hz is 1000 mel, 8000 Hz is 2840: of the centres of 80 bands, numbers 28 and 29 are the nearest.
    assert set(spectrogram.argmax(axis=1)) <= {27, 28}
    # A bin of amplitude 1/2; the Hann window gives half of that to each of its neighbours.
    power = (10 ** (spectrogram / 10)).sum(axis=1)
    np.testing.assert_allclose(power, 1 / 4 + 2 * 1 / 16, rtol=1e-5)


@pytest.mark.parametrize("metric", [pesq_wb, stoi, si_sdr, mel_distance])
def test_a_silent_reference_gets_no_score(metric, signal: Tensor) -> None:
    assert math.isnan(score(metric, torch.zeros_like(signal), signal))
    assert math.isnan(score(metric, torch.zeros_like(signal), torch.zeros_like(signal)))


@pytest.mark.parametrize(("metric", "lowest"), [(pesq_wb, PESQ_LOWEST), (stoi, 0.0), (si_sdr, -math.inf)])
def test_a_silent_estimate_gets_the_lowest_score(metric, lowest: float, signal: Tensor) -> None:
    assert score(metric, signal, torch.zeros_like(signal)) == lowest


def test_pesq_of_an_estimate_too_far_off_to_be_aligned_is_the_lowest(signal: Tensor) -> None:
    # The package reports "no utterances", as if the reference were silent.
    reference = signal[38_000:50_000]
    assert pesq_wb(reference, reference, SAMPLE_RATE) > 4.6
    assert pesq_wb(reference, reference.roll(4000), SAMPLE_RATE) == PESQ_LOWEST


@pytest.mark.parametrize("metric", WITH_RATE)
@pytest.mark.parametrize("length", [1, 100, 900])
def test_a_clip_too_short_for_the_measure_gets_no_score(metric, length: int, signal: Tensor) -> None:
    # The end of the clip is faint noise, its middle is speech.
    for start in (0, len(signal) // 2):
        part = signal[start : start + length]
        assert math.isnan(score(metric, part, part))


def test_stoi_of_less_than_its_window_of_speech_gets_no_score(signal: Tensor) -> None:
    part = signal[20_000:24_000]
    assert math.isnan(stoi(part, part, SAMPLE_RATE))


def test_pesq_resamples_to_the_rate_of_the_standard(signal: Tensor) -> None:
    noisy = with_noise(signal, 15)
    at_24k = [resample(part, SAMPLE_RATE, 24_000) for part in (signal, noisy)]
    assert pesq_wb(*at_24k, 24_000) == pytest.approx(pesq_wb(signal, noisy, SAMPLE_RATE), abs=0.05)


def test_pesq_of_a_long_signal_is_the_mean_over_its_parts(signal: Tensor) -> None:
    # Two minutes of speech crash the reference code when they are scored at once.
    reference = signal.repeat(20)
    estimate = torch.cat([with_noise(signal, 15).repeat(10), with_noise(signal, 5).repeat(10)])
    halves = [pesq_wb(r, e, SAMPLE_RATE) for r, e in zip(reference.chunk(2), estimate.chunk(2), strict=True)]
    assert pesq_wb(reference, estimate, SAMPLE_RATE) == pytest.approx(sum(halves) / 2, abs=0.05)


@pytest.mark.parametrize("metric", [pesq_wb, stoi, si_sdr, mel_distance])
def test_arrays_and_tensors_of_any_float_type_do(metric, signal: Tensor) -> None:
    estimate = with_noise(signal, 15).requires_grad_()
    expected = score(metric, signal, estimate)
    assert score(metric, signal.double().numpy(), estimate.detach().double().numpy()) == pytest.approx(expected)
    assert score(metric, signal.half(), estimate.half()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("metric", [pesq_wb, stoi, si_sdr, mel_distance])
def test_signals_that_do_not_match_are_refused(metric, speech: Tensor) -> None:
    signal = speech.flatten()
    with pytest.raises(ValueError, match=r"one axis and the same length; got \(94400,\) and \(94399,\)"):
        score(metric, signal, signal[1:])
    with pytest.raises(ValueError, match=r"one axis and the same length; got \(1, 1, 94400\)"):
        score(metric, speech, speech)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("metric", [pesq_wb, stoi, si_sdr, mel_distance])
def test_an_estimate_that_is_not_finite_is_refused(metric, value: float, signal: Tensor) -> None:
    estimate = signal.clone()
    estimate[100] = value
    with pytest.raises(ValueError, match="estimate must be finite"):
        score(metric, signal, estimate)


@pytest.mark.parametrize(("metric", "package"), [(pesq_wb, "pesq"), (stoi, "pystoi")])
def test_a_missing_package_is_named_with_its_extra(
    metric, package: str, signal: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} must be installed .* pip install 'rvq-codec\[eval\]'"):
        metric(signal, signal, SAMPLE_RATE)


def test_a_mean_leaves_out_what_is_not_known() -> None:
    assert mean_of_known([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean_of_known([math.nan]))
