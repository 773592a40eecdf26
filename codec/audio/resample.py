"""Change of sample rate."""

import soxr
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


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
    resampled = soxr.resample(columns, from_rate, to_rate, quality="HQ")
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
