"""The settings of discriminators, as they stand in recipes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Which discriminators, and how large. Time grows with channels, up to 8, and with their square beyond 16.

    Attributes:
        kinds: Names in `DISCRIMINATORS`; none: no adversarial training.
        stft_windows: Samples of the window of each "stft" discriminator, multiples of 4.
        stft_channels: Of their hidden layers.
        periods: Of each "period" discriminator, samples.
        period_channels: Of their first hidden layer; the widest has 32 times as many.
        band_windows: Samples of the window of each "band" discriminator, multiples of 4.
        band_channels: Of their hidden layers.
    """

    kinds: tuple[str, ...] = ()
    stft_windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    stft_channels: int = 32
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: int = 32
    band_windows: tuple[int, ...] = (2048, 1024, 512)
    band_channels: int = 32
