"""Discriminator on bands of a complex spectrogram (Kumar et al. 2023, arXiv 2306.06546, section 3.4)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from codec.discriminators.convolution import HiddenLayers, convolution
from codec.discriminators.judgement import Judgement
from codec.discriminators.spectrogram import Spectrogram

SLOPE = 0.1
# The paper's, narrow where speech and music have most of their energy.
BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


class BandDiscriminator(nn.Module):
    """A stack of convolutions for each band of the complex spectrogram of one resolution; the last layer joins them.

    What is decoded well in one band and badly in another is not averaged: each band has weights of its own.

    Args:
        window_length: Samples of the spectrogram's window, a multiple of 4; the hop is a quarter.
        channels: Of every hidden layer, five for each band; 32 in the paper.
        bands: Edges between the bands and at both ends, ascending shares of the bins.

    Raises:
        ValueError: `window_length` is no positive multiple of 4, or a band has no bin.
    """

    def __init__(self, window_length: int, channels: int, bands: tuple[float, ...] = BANDS):
        super().__init__()
        self.spectrogram = Spectrogram(window_length)
        self.bands = cut(self.spectrogram.bins, bands)
        self.hidden = nn.ModuleList(_layers(channels) for _ in self.bands)
        self.last = convolution(channels, 1, (3, 3))

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge [batch, 1, time], of any time from 1 sample on.

        Returns:
            Logits [batch, 1, frames, sum over bands of bins / 8] and 5 features for each band, the lowest first,
            [batch, channels, frames, bins of the band / 1, 2, 4, 8, 8], where each division rounds up.

        Raises:
            ValueError: The waveform has another shape, or no sample.
        """
        spectrogram = self.spectrogram(waveform)
        features = [
            layers(spectrogram[..., low:high]) for layers, (low, high) in zip(self.hidden, self.bands, strict=True)
        ]
        joined = torch.cat([outputs[-1] for outputs in features], dim=-1)
        return Judgement(self.last(joined).float(), [feature for outputs in features for feature in outputs])


def _layers(channels: int) -> HiddenLayers:
    return HiddenLayers(
        SLOPE,
        convolution(2, channels, (3, 9)),
        convolution(channels, channels, (3, 9), stride=(1, 2)),
        convolution(channels, channels, (3, 9), stride=(1, 2)),
        convolution(channels, channels, (3, 9), stride=(1, 2)),
        convolution(channels, channels, (3, 3)),
    )


def cut(bins: int, bands: tuple[float, ...]) -> list[tuple[int, int]]:
    """First bin of each band and the bin after its last.

    Args:
        bins: Of the spectrogram.
        bands: Edges, ascending shares of the bins; where one falls into a bin, that bin goes to the band above.

    Raises:
        ValueError: An edge is not in [0, 1], or a band has no bin.
    """
    edges = [int(edge * bins) for edge in bands]
    if len(edges) < 2 or min(bands) < 0 or max(bands) > 1 or any(low >= high for low, high in pairwise(edges)):
        raise ValueError(f"bands must be ascending edges in [0, 1], a bin or more apart; got {bands} of {bins} bins")
    return list(pairwise(edges))
