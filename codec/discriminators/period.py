"""Discriminator on equally spaced samples (HiFi-GAN: Kong et al. 2020, arXiv 2010.05646, section 2.3)."""

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from codec.discriminators.convolution import HiddenLayers, convolution
from codec.discriminators.judgement import Judgement, samples_of

SLOPE = 0.1
# Channels of the hidden layers, as multiples of those of the first.
WIDTHS = (1, 4, 16, 32, 32)
STRIDES = (3, 3, 3, 3, 1)


class PeriodDiscriminator(nn.Module):
    """Convolutions over every `period`-th sample, from each of the first ones on, with shared weights.

    Args:
        period: Samples; different primes complement each other.
        channels: Of the first of five hidden layers, which have 1, 4, 16, 32 and 32 times as many; 32 in the paper.
    """

    def __init__(self, period: int, channels: int):
        super().__init__()
        self.period = period
        widths = [1, *(channels * width for width in WIDTHS)]
        convolutions = [
            convolution(before, after, (5, 1), stride=(stride, 1))
            for (before, after), stride in zip(pairwise(widths), STRIDES, strict=True)
        ]
        self.hidden = HiddenLayers(SLOPE, *convolutions)
        self.last = convolution(widths[-1], 1, (3, 1))

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge [batch, 1, time], of any time from 1 sample on.

        Returns:
            Logits [batch, 1, time / period / 81, period] and 5 features [batch, (1, 4, 16, 32, 32) * channels,
            time / period / (3, 9, 27, 81, 81), period], where each division rounds up.

        Raises:
            ValueError: The waveform has another shape, or no sample.
        """
        features = self.hidden(fold(waveform, self.period))
        return Judgement(self.last(features[-1]).float(), features)


def fold(waveform: Tensor, period: int) -> Tensor:
    """Write the samples in rows of `period`; what the last one lacks mirrors the end, or is silent where that is short.

    Args:
        waveform: [batch, 1, time].
        period: Samples of a row.

    Returns:
        [batch, 1, time / period rounded up, period].

    Raises:
        ValueError: The waveform has another shape, or no sample.
    """
    time = samples_of(waveform).shape[-1]
    lacking = -time % period
    # By hand, since the gradient of torch's reflecting pad differs from run to run on a GPU.
    mirrored = waveform[..., -1 - lacking : -1].flip(-1)
    end = mirrored if lacking < time else waveform.new_zeros(*waveform.shape[:-1], lacking)
    return rearrange(torch.cat([waveform, end], dim=-1), "b c (t p) -> b c t p", p=period)
