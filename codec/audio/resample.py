"""Change of sample rate."""

import math

import soxr
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

QUALITY = "HQ"
# Samples, of the lower of two rates, on either side of what is resampled. The ends of a signal show in its resampled
# version for about 90 of them: beyond, white noise at -20 dB differs by less than 1e-6.
MARGIN = 128


class Resampler:
    """Conversion of audio that comes bit by bit: all that is pushed gives what `resample` gives of the whole.

    soxr keeps what its filter needs of the past, so what comes out lags behind what goes in, by some milliseconds to
    tenths of a second.

    Args:
        channels: How many.
        from_rate: Hz.
        to_rate: Hz.

    Raises:
        ValueError: A rate is not positive.
    """

    def __init__(self, channels: int, from_rate: int, to_rate: int):
        resampled_length(0, from_rate, to_rate)
        self.channels = channels
        self.from_rate = from_rate
        self.to_rate = to_rate
        self.pushed = 0
        self.returned = 0
        self._stream = (
            None
            if from_rate == to_rate
            else soxr.ResampleStream(from_rate, to_rate, channels, dtype="float32", quality=QUALITY)
        )

    def push(self, waveform: Tensor) -> Tensor:
        """Take what comes next; return what became final.

        Args:
            waveform: float32, [channels, n], n >= 0.

        Returns:
            [channels, m], m >= 0; `waveform` itself when the rates are equal.

        Raises:
            ValueError: `waveform` has other axes or another number of channels.
        """
        if waveform.ndim != 2 or len(waveform) != self.channels:
            raise ValueError(f"waveform must be [{self.channels}, time]; got shape {tuple(waveform.shape)}")
        self.pushed += waveform.shape[1]
        return self._take(waveform, last=False)

    def flush(self) -> Tensor:
        """End the audio; return the rest, so that there are `resampled_length(pushed, from_rate, to_rate)` samples.

        Returns:
            [channels, m], m >= 0.
        """
        missing = resampled_length(self.pushed, self.from_rate, self.to_rate) - self.returned
        return fit_length(self._take(torch.empty(self.channels, 0), last=True), missing)

    def _take(self, waveform: Tensor, last: bool) -> Tensor:
        if self._stream is not None:
            columns = rearrange(waveform, "c t -> t c").cpu().numpy()
            waveform = torch.from_numpy(self._stream.resample_chunk(columns, last=last).T)
        self.returned += waveform.shape[1]
        return waveform


def resample(waveform: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Convert audio from one sample rate to another with soxr's high-quality filter.

    Args:
        waveform: float32 or float64, [..., time].
        from_rate: Hz.
        to_rate: Hz.

    Returns:
        Audio of exactly `resampled_length(time, from_rate, to_rate)` samples, [..., time]; `waveform` itself when the
        rates are equal.

    Raises:
        ValueError: A rate is not positive.
    """
    length = resampled_length(waveform.shape[-1], from_rate, to_rate)
    if from_rate == to_rate:
        return waveform
    columns = rearrange(waveform, "... t -> t (...)").cpu().numpy()
    resampled = soxr.resample(columns, from_rate, to_rate, quality=QUALITY)
    rows = torch.from_numpy(resampled.T).reshape(*waveform.shape[:-1], len(resampled))
    return fit_length(rows, length).to(waveform.device)


def resampled_length(length: int, from_rate: int, to_rate: int) -> int:
    """Count the samples that `length` samples become: as many as cover the same time, rounded up.

    Raises:
        ValueError: A rate is not positive.
    """
    if min(from_rate, to_rate) <= 0:
        raise ValueError(f"sample rates must be positive; got {from_rate} and {to_rate}")
    return -(-length * to_rate // from_rate)


def resampling_margin(from_rate: int, to_rate: int) -> int:
    """Count the samples, before they are resampled, that the ends of a signal show for: 0 if the rates are equal."""
    return 0 if from_rate == to_rate else math.ceil(MARGIN * max(1, from_rate / to_rate))


def fit_length(waveform: Tensor, length: int) -> Tensor:
    """Make audio exactly `length` samples long: cut its end off, or append silence.

    A resampler's output is up to a sample shorter or longer than the ratio of the rates says.

    Args:
        waveform: [..., time].
        length: Samples wanted.

    Returns:
        [..., length].
    """
    if length < 0:
        raise ValueError(f"length must not be negative; got {length}")
    missing = max(0, length - waveform.shape[-1])
    return F.pad(waveform[..., :length], (0, missing))
