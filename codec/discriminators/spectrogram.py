"""Complex spectrograms, as discriminators look at them."""

import torch
from einops import rearrange
from torch import Tensor, nn

from codec.discriminators.judgement import samples_of

# Spectra have this times the magnitudes of an orthonormal transform: white noise of RMS r has magnitudes near 10 r.
# Most bins of speech are quiet: with a gain of 1, a hinge loss needs a third more steps to fall as far.
GAIN = 10.0


class Spectrogram(nn.Module):
    """Short-time Fourier transform with a Hann window and a hop of a quarter of it, in float32 whatever autocast says.

    Frame j is centred on sample j * window_length / 4; zeros lie before the first sample and after the last.

    Args:
        window_length: Samples.

    Raises:
        ValueError: `window_length` is no positive multiple of 4.
    """

    window: Tensor

    def __init__(self, window_length: int):
        super().__init__()
        if window_length < 4 or window_length % 4:
            raise ValueError(f"window_length must be a positive multiple of 4; got {window_length}")
        self.window_length = window_length
        self.bins = window_length // 2 + 1
        window = torch.hann_window(window_length)
        self.register_buffer("window", GAIN * window / window.norm(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Real and imaginary parts, as two channels.

        Args:
            waveform: [batch, 1, time].

        Returns:
            [batch, 2, time // (window_length / 4) + 1 frames, window_length / 2 + 1 bins].

        Raises:
            ValueError: The waveform has another shape, or no sample.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                samples_of(waveform).float(),
                self.window_length,
                self.window_length // 4,
                window=self.window,
                return_complex=True,
                pad_mode="constant",
            )
        # A view: in memory, channels stay the innermost axis. On a CPU, convolutions with few channels take half the
        # time in that order.
        return rearrange(torch.view_as_real(spectrum), "b f t c -> b c t f")
