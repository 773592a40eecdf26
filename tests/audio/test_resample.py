import pytest
import torch

from codec.audio import Resampler, fit_length, resample, resampled_length

RATES = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000]


def sine(frequency, sample_rate, seconds):
    time = torch.arange(round(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return torch.sin(2 * torch.pi * frequency * time).float()


@pytest.mark.parametrize("from_rate", RATES)
@pytest.mark.parametrize("to_rate", RATES)
def test_a_sine_stays_the_same_sine(from_rate, to_rate):
    resampled = resample(sine(440, from_rate, seconds=0.4), from_rate, to_rate)
    expected = sine(440, to_rate, seconds=0.4)
    assert resampled.shape == expected.shape
    inner = slice(len(expected) // 10, -len(expected) // 10)  # the filter rings where the sound starts and ends
    torch.testing.assert_close(resampled[inner], expected[inner], atol=1e-3, rtol=0)


@pytest.mark.parametrize("length", [0, 1, 2, 7, 1000, 1001])
@pytest.mark.parametrize(("from_rate", "to_rate"), [(192_000, 8_000), (8_000, 192_000), (44_100, 16_000)])
def test_the_length_is_exact_there_and_back(length, from_rate, to_rate):
    waveform = torch.ones(3, 2, length)
    there = resample(waveform, from_rate, to_rate)
    assert there.shape == (3, 2, resampled_length(length, from_rate, to_rate))
    assert resample(there, to_rate, from_rate).shape[-1] >= length


def test_rows_are_resampled_each_on_its_own():
    waveform = torch.randn(2, 3, 1000, generator=torch.Generator().manual_seed(0))
    together = resample(waveform, 44_100, 16_000)
    for b in range(2):
        for c in range(3):
            torch.testing.assert_close(together[b, c], resample(waveform[b, c], 44_100, 16_000))


def test_equal_rates_change_nothing():
    waveform = torch.randn(1, 100)
    assert resample(waveform, 16_000, 16_000) is waveform


def test_lengths_cover_the_same_time_rounded_up():
    assert resampled_length(44_100, 44_100, 16_000) == 16_000
    assert resampled_length(1, 192_000, 8_000) == 1
    assert resampled_length(25, 192_000, 8_000) == 2
    assert resampled_length(0, 192_000, 8_000) == 0


@pytest.mark.parametrize("rates", [(0, 16_000), (16_000, -1)])
def test_a_rate_that_is_not_positive_is_an_error(rates):
    with pytest.raises(ValueError, match=f"sample rates must be positive; got {rates[0]} and {rates[1]}"):
        resample(torch.zeros(1, 10), *rates)


def test_fit_length_cuts_or_appends_silence():
    waveform = torch.tensor([[1.0, 2.0, 3.0]])
    assert fit_length(waveform, 2).tolist() == [[1, 2]]
    assert fit_length(waveform, 3).tolist() == [[1, 2, 3]]
    assert fit_length(waveform, 5).tolist() == [[1, 2, 3, 0, 0]]
    assert fit_length(waveform, 0).shape == (1, 0)
    assert fit_length(torch.zeros(2, 0), 3).tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="length must not be negative; got -1"):
        fit_length(waveform, -1)


@pytest.mark.parametrize("chunk", [1, 7, 1000, 20_000])
@pytest.mark.parametrize("from_rate", [8_000, 16_000, 44_100, 192_000])
@pytest.mark.parametrize("to_rate", [8_000, 16_000, 44_100, 192_000])
def test_audio_that_comes_bit_by_bit_is_resampled_as_the_whole(from_rate, to_rate, chunk):
    waveform = torch.randn(2, 500 if chunk == 1 else 20_001) / 4
    resampler = Resampler(2, from_rate, to_rate)
    bits = [resampler.push(bit) for bit in waveform.split(chunk, dim=1)] + [resampler.flush()]
    torch.testing.assert_close(torch.cat(bits, dim=1), resample(waveform, from_rate, to_rate), atol=1e-6, rtol=0)


@pytest.mark.parametrize("length", [0, 1, 2, 25, 1001])
@pytest.mark.parametrize("rates", [(192_000, 8_000), (8_000, 192_000), (44_100, 16_000), (16_000, 16_001)])
def test_the_length_of_bits_is_exact(length, rates):
    resampler = Resampler(1, *rates)
    bits = [resampler.push(torch.ones(1, size)) for size in (0, length, 0)] + [resampler.flush()]
    assert sum(bit.shape[1] for bit in bits) == resampled_length(length, *rates)


def test_bits_come_out_while_others_go_in():
    resampler = Resampler(1, 44_100, 16_000)
    out = sum(resampler.push(torch.zeros(1, 441)).shape[1] for _ in range(100))
    assert 0.9 * 16_000 < out <= 16_000


def test_bits_of_equal_rates_pass_at_once():
    resampler = Resampler(1, 16_000, 16_000)
    waveform = torch.randn(1, 100)
    assert resampler.push(waveform) is waveform
    assert resampler.flush().shape == (1, 0)


def test_bits_of_another_shape_are_an_error():
    with pytest.raises(ValueError, match=r"waveform must be \[2, time\]; got shape \(1, 10\)"):
        Resampler(2, 16_000, 8_000).push(torch.zeros(1, 10))
    with pytest.raises(ValueError, match="sample rates must be positive; got 0 and 8000"):
        Resampler(2, 0, 8_000)
