import math
import warnings

import numpy as np
import pytest
import torch

from codec.losses import SpectralLoss, waveform_loss

SAMPLE_RATE = 16_000


def noise(*shape, rms=0.1, seed=1):
    return rms * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def loss():
    return SpectralLoss(SAMPLE_RATE, (512, 256), (40, 20), power=0.5)


def mel_filters(window_length, bands):
    """Slaney's triangles: centres evenly spaced to 1 kHz, and in ratios of 6.4^(1/27) above; [bins, bands]."""

    def to_hertz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    highest = 15 + 27 * math.log(SAMPLE_RATE / 2 / 1000) / math.log(6.4)
    corners = [to_hertz(highest * step / (bands + 1)) for step in range(bands + 2)]
    filters = np.zeros((window_length // 2 + 1, bands))
    for band in range(bands):
        low, centre, high = corners[band : band + 3]
        for index in range(len(filters)):
            hertz = index * SAMPLE_RATE / window_length
            filters[index, band] = max(0.0, min((hertz - low) / (centre - low), (high - hertz) / (high - centre)))
    return filters / filters.sum(0)


def slow_features(samples, window_length, bands, power):
    """Log-mel heights above -80 dB and compressed complex spectra of one signal, frame by frame."""
    window = np.sin(np.pi * np.arange(window_length) / window_length) ** 2
    window /= np.sqrt((window**2).sum())
    padded = np.pad(samples, window_length // 2)
    starts = range(0, len(padded) - window_length + 1, window_length // 4)
    spectra = np.stack([np.fft.rfft(window * padded[start : start + window_length]) for start in starts])
    magnitudes = np.abs(spectra)
    heights = np.log(np.maximum(magnitudes @ mel_filters(window_length, bands) / 1e-4, 1))
    return heights, spectra * (magnitudes**2 + 3e-4**2) ** ((power - 1) / 2)


def l1(z):
    return np.abs(z.real).sum() + np.abs(z.imag).sum()


def test_both_losses_are_those_of_the_slow_reference(speech, loss):
    target = speech[..., 16_000:17_000]
    estimate = target + noise(1, 1, 1000, rms=0.02)
    expected = []
    for window_length, bands in ((512, 40), (256, 20)):
        mel, spectra = slow_features(estimate.flatten().double().numpy(), window_length, bands, 0.5)
        target_mel, target_spectra = slow_features(target.flatten().double().numpy(), window_length, bands, 0.5)
        expected.append(
            (np.abs(mel - target_mel).sum() / target_mel.sum(), l1(spectra - target_spectra) / l1(target_spectra))
        )
    log_mel, stft = np.mean(expected, axis=0)
    result = loss(estimate, target)
    assert result.log_mel.item() == pytest.approx(log_mel, rel=1e-3)
    assert result.stft.item() == pytest.approx(stft, rel=1e-3)


def test_waveform_loss_is_a_ratio_of_sums_over_the_batch():
    target = torch.tensor([[[1.0, -1.0]], [[4.0, 2.0]]])
    estimate = torch.tensor([[[1.0, 0.0]], [[4.0, 5.0]]])
    assert waveform_loss(estimate, target).item() == pytest.approx((1 + 3) / 8)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_waveform_loss_does_not_depend_on_the_level(speech, scale):
    estimate = speech + noise(*speech.shape, rms=0.01)
    assert waveform_loss(scale * estimate, scale * speech).item() == pytest.approx(
        waveform_loss(estimate, speech).item(), rel=1e-4
    )


def test_a_silent_example_counts_for_little_in_a_batch(loss):
    target = torch.cat([noise(1, 1, 4000), torch.zeros(1, 1, 4000)])
    estimate = target + noise(2, 1, 4000, rms=1e-3, seed=2)
    assert waveform_loss(estimate, target) < 0.03
    assert loss(estimate, target).stft < 1


def test_equal_signals_have_no_loss(speech, loss):
    assert waveform_loss(speech, speech) == 0
    assert loss(speech, speech) == (0, 0)


def test_silence_in_place_of_a_signal_loses_all_of_it(speech, loss):
    silence = torch.zeros_like(speech)
    assert waveform_loss(silence, speech) == 1
    result = loss(silence, speech)
    assert result.log_mel.item() == pytest.approx(1, abs=1e-5)
    assert result.stft.item() == pytest.approx(1, abs=1e-5)


def test_a_factor_on_a_loud_signal_has_the_loss_of_the_formulas(loss):
    target = noise(1, 1, 8000)
    doubled, halved = loss(2 * target, target), loss(target / 2, target)
    # log 2 in every band; |2 X|^0.5 - |X|^0.5 in every bin.
    assert doubled.log_mel.item() == pytest.approx(halved.log_mel.item(), rel=1e-3)
    assert doubled.stft.item() == pytest.approx(math.sqrt(2) - 1, rel=1e-3)
    assert halved.stft.item() == pytest.approx(1 - math.sqrt(0.5), rel=1e-3)
    # Noise of RMS 0.1 has mel magnitudes near 0.1, some 60 dB above the floor; their mean log is a little lower.
    height = math.log(2) / doubled.log_mel.item()
    assert math.log(0.1 / 1e-4) - 0.5 < height < math.log(0.1 / 1e-4)


def test_a_power_of_one_compares_the_spectra_as_they_are():
    target = noise(1, 1, 8000)
    result = SpectralLoss(SAMPLE_RATE, (256,), (20,), power=1.0)(3 * target, target)
    assert result.stft.item() == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("name", ["log_mel", "stft"])
def test_more_noise_is_a_larger_loss(speech, loss, name):
    target = speech[..., 16_000:32_000]
    values = [getattr(loss(target + noise(*target.shape, rms=rms), target), name) for rms in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert values == sorted(values)
    assert values[-1] > 2 * values[0] > 0


def test_a_phase_error_is_seen_by_the_complex_spectrum_alone(speech, loss):
    target = speech[..., 16_000:32_000]
    inverted = loss(-target, target)
    assert inverted.log_mel == 0
    assert inverted.stft.item() == pytest.approx(2, rel=1e-5)
    delayed = loss(torch.roll(target, 8, dims=-1), target)
    assert delayed.log_mel < 0.05
    assert delayed.stft > 0.5


SIGNALS = {
    "silence": torch.zeros(2, 1, 2000),
    "noise": noise(2, 1, 2000),
    "faint": noise(2, 1, 2000, rms=1e-6),
    "click": torch.nn.functional.one_hot(torch.tensor(1000), 2000).float().expand(2, 1, 2000),
}


@pytest.mark.parametrize("estimate", SIGNALS)
@pytest.mark.parametrize("target", SIGNALS)
def test_loss_and_gradient_are_finite_and_small_enough_to_learn_from(loss, estimate, target):
    estimate = SIGNALS[estimate].clone().requires_grad_()
    target = SIGNALS[target]
    values = [*loss(estimate, target), waveform_loss(estimate, target)]
    assert all(value.isfinite() for value in values)
    for value in values:
        (gradient,) = torch.autograd.grad(value, estimate, retain_graph=True)
        assert gradient.isfinite().all()
        # A sum of squares beyond the range of float32 would make the clipped gradient nan.
        assert gradient.norm() < 1e6


def test_gradients_lead_to_the_target(loss):
    target = noise(1, 1, 1000)
    estimate = noise(1, 1, 1000, seed=2).requires_grad_()
    optimizer = torch.optim.Adam([estimate], lr=1e-2)
    start = loss(estimate, target).stft.item()
    for _ in range(40):
        optimizer.zero_grad()
        (loss(estimate, target).stft + waveform_loss(estimate, target)).backward()
        optimizer.step()
    assert loss(estimate, target).stft.item() < 0.5 * start


def test_the_maths_is_in_float32_under_autocast(speech, loss):
    target = speech[..., 16_000:20_000]
    estimate = (target + noise(*target.shape, rms=0.01)).bfloat16()
    expected = loss(estimate.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        result = loss(estimate, target)
    assert result.log_mel.dtype == result.stft.dtype == torch.float32
    assert result == expected


def test_several_channels_are_compared_one_by_one(speech, loss):
    target = speech[..., 16_000:20_000].reshape(1, 2, 2000)
    estimate = target + noise(1, 2, 2000, rms=0.01)
    stereo, mono = loss(estimate, target), loss(estimate.reshape(2, 1, 2000), target.reshape(2, 1, 2000))
    assert stereo == mono


def test_the_losses_of_resolutions_are_averaged():
    target = noise(1, 1, 4000)
    estimate = noise(1, 1, 4000, seed=2)
    single = [SpectralLoss(SAMPLE_RATE, (n,), (m,))(estimate, target) for n, m in ((512, 40), (256, 20))]
    both = SpectralLoss(SAMPLE_RATE, (512, 256), (40, 20))(estimate, target)
    for name in ("log_mel", "stft"):
        mean = sum(getattr(result, name).item() for result in single) / 2
        assert getattr(both, name).item() == pytest.approx(mean, rel=1e-5)


def test_a_signal_shorter_than_the_windows_is_compared(loss):
    assert loss(noise(1, 1, 50), noise(1, 1, 50, seed=2)).stft > 0.5


def test_the_module_holds_no_state(loss):
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []


def test_as_many_bands_as_windows_must_be_given():
    with pytest.raises(ValueError, match=r"num_mels must have one entry a window length; got \(40,\) for \(512, 256\)"):
        SpectralLoss(SAMPLE_RATE, (512, 256), (40,))


def test_a_window_too_short_for_its_bands_is_refused():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        with pytest.raises(
            ValueError, match="num_mels must leave each band a bin; got 120 for a window of 256 samples"
        ):
            SpectralLoss(SAMPLE_RATE, (256,), (120,))
