"""Activations by name, each made for a number of channels."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Snake(nn.Module):
    """x + sin^2(a x) / a, with an `a` learned for each channel (Ziyin et al. 2020, arXiv 2006.08195, eq. 3).

    It grows like the identity and repeats like a voice, which piecewise smooth activations learn slowly. What is
    learned is log(a), as in BigVGAN (arXiv 2206.04658): `a` itself could cross 0, where the division fails.

    Args:
        channels: How many.
        a: Initial value. Small: near 0 it starts near the identity.
    """

    def __init__(self, channels: int, a: float = 0.2):
        super().__init__()
        self.log_a = nn.Parameter(torch.full((channels, 1), math.log(a)))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, time] -> [batch, channels, time]."""
        a = self.log_a.exp()
        # `a` makes the sine one of float32 under autocast, too: half precision has no digits left in large arguments.
        return (x + (a * x).sin().square() / a).to(x.dtype)


def elu(channels: int) -> nn.Module:
    """x above 0, exp(x) - 1 below (Clevert et al. 2015, arXiv 1511.07289): as in EnCodec."""
    return nn.ELU()


ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {"elu": elu, "snake": Snake}
