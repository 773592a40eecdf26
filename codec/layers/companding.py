"""Companding: a power law on the size of each coefficient, and its inverse.

Speech spans 40 dB from its loudest to its faintest frames, and as much from its lowest to its highest frequencies. A
quantizer that keeps its squared error small spends all its bits on what is loud. After a square root the same span is
20 dB; and an error made there grows, on the way back, with the root of the coefficient that it falls on. So does the
error that an ear forgives: loudness is about the root of amplitude (see `codec.losses.loudness`).

With exponent p and knee e

    y = sign(x) ((|x| + e)^p - e^p)

which is linear well below the knee, where a power alone would have an unbounded slope.
"""

import torch
from torch import Tensor, nn

# Coefficients of speech, with the gain that networks see them with, are between 0.01 and 10.
KNEE = 0.01


class Compress(nn.Module):
    """Bring large and small values nearer to each other.

    Args:
        exponent: p, in (0, 1].
        knee: e, positive.
    """

    def __init__(self, exponent: float, knee: float = KNEE):
        super().__init__()
        self.exponent = exponent
        self.knee = knee

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; in float32 whatever autocast says."""
        with torch.autocast(x.device.type, enabled=False):
            size = (x.float().abs() + self.knee) ** self.exponent - self.knee**self.exponent
            return (x.sign() * size).to(x.dtype)


class Expand(nn.Module):
    """The inverse of `Compress`; arguments as there."""

    def __init__(self, exponent: float, knee: float = KNEE):
        super().__init__()
        self.exponent = exponent
        self.knee = knee

    def forward(self, y: Tensor) -> Tensor:
        """Any shape; in float32 whatever autocast says."""
        with torch.autocast(y.device.type, enabled=False):
            size = (y.float().abs() + self.knee**self.exponent) ** (1 / self.exponent) - self.knee
            return (y.sign() * size).to(y.dtype)
