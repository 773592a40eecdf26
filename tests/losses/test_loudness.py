import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from pesq import pesq
from torch import Tensor

from codec.losses import LoudnessLoss
from codec.losses.loudness import LOUDNESS_FLOOR, bark, hearing_threshold, loudness_exponent

SAMPLE_RATE = 16_000


def noise(*shape: int, rms: float = 0.1, seed: int = 1) -> Tensor:
    return rms * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_loss(estimate, target, asymmetry=1.0):
    """One signal against another: frame by frame, band by band, in float64."""
    length = 512
    window = np.sin(np.pi * np.arange(length) / length) ** 2
    window /= np.sqrt((window**2).sum())
    bins: dict[int, list[int]] = {}
    for index in range(length // 2 + 1):
        bins.setdefault(int(7 * math.asinh(index * SAMPLE_RATE / length / 650) / 0.5), []).append(index)

    def frames(samples):
        padded = np.pad(samples, length // 2)
        for start in range(0, len(padded) - length + 1, length // 2):
            # White noise of RMS 0.05 has 79 dB, over all bins but the two halves at the ends.
            yield np.abs(np.fft.rfft(window * padded[start : start + length])) ** 2 / 256 / 0.05**2 * 10**7.9

    def loudness(power, centre):
        kilohertz = max(centre, 20) / 1000
        level = 3.64 * kilohertz**-0.8 - 6.5 * math.exp(-0.6 * (kilohertz - 3.3) ** 2) + 1e-3 * kilohertz**4
        threshold = 10 ** (min(level, 60) / 10)
        z = 7 * math.asinh(centre / 650)
        exponent = 0.23 * (min(6 / (z + 2), 2) ** 0.15 if z < 4 else 1)
        if power < threshold:
            return 0.0
        return (threshold / 0.5) ** exponent * ((0.5 + 0.5 * power / threshold) ** exponent - 1)

    distances, sizes = [], []
    for spectrum, target_spectrum in zip(frames(estimate), frames(target), strict=True):
        squares = added = size = widths = 0.0
        for indices in bins.values():
            centre = np.mean(indices) * SAMPLE_RATE / length
            width = len(indices) / math.sqrt(centre**2 + 650**2)
            power, target_power = spectrum[indices].sum(), target_spectrum[indices].sum()
            mine, other = loudness(power, centre), loudness(target_power, centre)
            audible = max(abs(mine - other) - 0.25 * min(mine, other), 0)
            factor = ((power + 50) / (target_power + 50)) ** 1.2
            squares += width * audible**2
            added += width * audible * (0 if factor < 3 else min(factor, 12))
            size += width * other
            widths += width
        distances.append(math.sqrt(squares / widths + 1e-6) - 1e-3 + asymmetry * added / widths)
        sizes.append(size / widths)
    return np.mean(distances) / max(np.mean(sizes), 0.1)


@pytest.mark.parametrize("asymmetry", [0.0, 0.5])
def test_the_loss_is_the_mean_over_signals_of_a_slow_one(speech: Tensor, asymmetry: float) -> None:
    target = speech[..., 16_000:20_000].reshape(2, 1, 2000)
    estimate = 0.7 * target + noise(2, 1, 2000, rms=0.02)
    pairs = zip(estimate.double().numpy(), target.double().numpy(), strict=True)
    expected = np.mean([slow_loss(mine[0], other[0], asymmetry) for mine, other in pairs])
    loss = LoudnessLoss(SAMPLE_RATE, asymmetry=asymmetry)
    assert loss(estimate, target).item() == pytest.approx(expected, rel=1e-4)


def test_hearing_is_finest_near_3_kilohertz_where_a_critical_band_is_wide() -> None:
    hertz = torch.arange(100.0, 8000.0, 100.0)
    assert 3000 <= hertz[hearing_threshold(hertz).argmin()] <= 3500
    assert hearing_threshold(torch.tensor(1000.0)) == pytest.approx(10**0.34, rel=0.1)  # 3.4 dB
    # Zwicker's table: the critical bands end at 510, 1080, 2000 and 4400 Hz.
    assert bark(torch.tensor([510.0, 1080.0, 2000.0, 4400.0])).tolist() == pytest.approx([5, 9, 13, 18], abs=0.5)


def test_a_power_ten_times_as_high_is_about_1_7_times_as_loud() -> None:
    assert 10 ** loudness_exponent(torch.tensor(10.0)).item() == pytest.approx(1.698, abs=1e-3)
    assert loudness_exponent(torch.tensor([0.0, 4.0])).tolist() == pytest.approx([0.23 * 2**0.15, 0.23])


def test_a_difference_that_is_masked_costs_nothing(speech: Tensor) -> None:
    loss = LoudnessLoss(SAMPLE_RATE)
    assert loss(speech, speech) == 0
    assert loss(0.9 * speech, speech) < 2e-3  # near the threshold of hearing little is masked
    assert loss(speech, -speech) == 0  # no phase


def test_by_the_asymmetry_what_is_added_costs_more_and_what_is_missing_hardly_does(speech: Tensor) -> None:
    louder = speech + noise(*speech.shape, rms=0.01)
    even, uneven = (LoudnessLoss(SAMPLE_RATE, asymmetry=asymmetry) for asymmetry in (0.0, 1.0))
    assert uneven(louder, speech) > 5 * even(louder, speech)
    assert uneven(speech, louder) == pytest.approx(even(speech, louder).item(), rel=0.02)
    assert uneven(louder, speech) > 10 * uneven(speech, louder)


def test_it_ranks_distortions_as_pesq_does(speech: Tensor) -> None:
    target = speech[..., :48_000]
    hum = 0.05 * torch.sin(torch.arange(48_000) * (2 * math.pi * 50 / SAMPLE_RATE))
    distorted = [target + noise(*target.shape, rms=rms) for rms in (1e-3, 3e-3, 1e-2, 3e-2)]
    distorted += [(target * scale).round() / scale for scale in (10.0, 30.0, 100.0, 1000.0)] + [target + hum]
    loss = LoudnessLoss(SAMPLE_RATE)
    losses = np.array([loss(each, target).item() for each in distorted])
    scores = np.array([pesq(SAMPLE_RATE, target[0, 0].numpy(), each[0, 0].numpy(), "wb") for each in distorted])
    assert np.corrcoef(losses.argsort().argsort(), scores.argsort().argsort())[0, 1] < -0.75


def test_read_speech_is_100_to_200_times_as_loud_as_the_floor(clips: list[Path]) -> None:
    loss = LoudnessLoss(SAMPLE_RATE)
    for clip in clips:
        waveform = torch.from_numpy(soundfile.read(clip, dtype="float32")[0])[None, None]
        size = (loss._loudness(loss._band_power(waveform)) @ loss.width).mean()
        assert 100 < size / LOUDNESS_FLOOR < 205


def test_the_maths_is_in_float32_under_autocast(speech: Tensor) -> None:
    loss, estimate = LoudnessLoss(SAMPLE_RATE), (speech + noise(*speech.shape, rms=0.01)).bfloat16()
    expected = loss(estimate.float(), speech)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(estimate, speech), expected)


SIGNALS = {
    "silence": torch.zeros(1, 1, 2000),
    "noise": noise(1, 1, 2000),
    "loud": noise(1, 1, 2000, rms=1e3),
    "faint": noise(1, 1, 2000, rms=1e-6),
}


@pytest.mark.parametrize("estimate", SIGNALS)
@pytest.mark.parametrize("target", SIGNALS)
def test_the_gradient_is_finite(estimate: str, target: str) -> None:
    signal = SIGNALS[estimate].clone().requires_grad_()
    LoudnessLoss(SAMPLE_RATE)(signal, SIGNALS[target]).backward()
    assert signal.grad.isfinite().all()


def test_losses_of_a_batch_are_the_mean_of_those_of_its_examples(speech: Tensor) -> None:
    target = torch.cat([speech[..., :8000], 0.01 * speech[..., 8000:16_000]])
    estimate = target + noise(2, 1, 8000, rms=0.01)
    loss = LoudnessLoss(SAMPLE_RATE)
    each = [loss(estimate[i : i + 1], target[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(loss(estimate, target), torch.stack(each).mean())
