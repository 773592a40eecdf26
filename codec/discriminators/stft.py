"""Discriminator on complex spectrograms (EnCodec: Défossez et al. 2022, arXiv 2210.13438, section 3.4 and figure 2)."""

from torch import Tensor, nn

from codec.discriminators.convolution import HiddenLayers, convolution
from codec.discriminators.judgement import Judgement
from codec.discriminators.spectrogram import Spectrogram

SLOPE = 0.2


class STFTDiscriminator(nn.Module):
    """Convolutions over the complex spectrogram of one resolution, wider in time from layer to layer.

    Five hidden layers: one at full resolution, three that halve the bins, dilated over 1, 2 and 4 frames, and one that
    joins neighbours.

    Args:
        window_length: Samples of the spectrogram's window, a multiple of 4; the hop is a quarter.
        channels: Of every hidden layer; 32 in the paper.

    Raises:
        ValueError: `window_length` is no positive multiple of 4.
    """

    def __init__(self, window_length: int, channels: int):
        super().__init__()
        self.spectrogram = Spectrogram(window_length)
        self.hidden = HiddenLayers(
            SLOPE,
            convolution(2, channels, (3, 9)),
            convolution(channels, channels, (3, 9), stride=(1, 2), dilation=(1, 1)),
            convolution(channels, channels, (3, 9), stride=(1, 2), dilation=(2, 1)),
            convolution(channels, channels, (3, 9), stride=(1, 2), dilation=(4, 1)),
            convolution(channels, channels, (3, 3)),
        )
        self.last = convolution(channels, 1, (3, 3))

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge [batch, 1, time], of any time from 1 sample on.

        Returns:
            Logits [batch, 1, frames, bins / 8] and 5 features [batch, channels, frames, bins / 1, 2, 4, 8, 8], where
            bins, `window_length` / 2 + 1 at first, are rounded up.

        Raises:
            ValueError: The waveform has another shape, or no sample.
        """
        features = self.hidden(self.spectrogram(waveform))
        return Judgement(self.last(features[-1]).float(), features)
