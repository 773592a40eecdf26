"""From settings to discriminators."""

from collections.abc import Callable

from torch import nn

from codec.choose import choose
from codec.discriminators.band import BandDiscriminator
from codec.discriminators.config import DiscriminatorConfig
from codec.discriminators.ensemble import Discriminators
from codec.discriminators.period import PeriodDiscriminator
from codec.discriminators.stft import STFTDiscriminator


def build_discriminators(config: DiscriminatorConfig) -> Discriminators:
    """All discriminators of the kinds named, with fresh weights, kind by kind and size by size in the order given.

    Raises:
        ValueError: No kind, a kind that does not exist, or a size of a kind named is out of range.
    """
    if not config.kinds:
        raise ValueError(f"kinds must name one of {', '.join(sorted(DISCRIMINATORS))} or more; got ()")
    kinds = [choose(DISCRIMINATORS, kind, "kind of discriminator") for kind in config.kinds]
    return Discriminators(member for build in kinds for member in build(config))


def _stft(config: DiscriminatorConfig) -> list[nn.Module]:
    _check(config, "stft_windows", "stft_channels")
    return [STFTDiscriminator(window_length, config.stft_channels) for window_length in config.stft_windows]


def _period(config: DiscriminatorConfig) -> list[nn.Module]:
    _check(config, "periods", "period_channels")
    return [PeriodDiscriminator(period, config.period_channels) for period in config.periods]


def _band(config: DiscriminatorConfig) -> list[nn.Module]:
    _check(config, "band_windows", "band_channels")
    return [BandDiscriminator(window_length, config.band_channels) for window_length in config.band_windows]


def _check(config: DiscriminatorConfig, sizes: str, channels: str) -> None:
    if min(getattr(config, sizes), default=0) < 1:
        raise ValueError(f"{sizes} must be one or more positive numbers; got {getattr(config, sizes)}")
    if getattr(config, channels) < 1:
        raise ValueError(f"{channels} must be positive; got {getattr(config, channels)}")


DISCRIMINATORS: dict[str, Callable[[DiscriminatorConfig], list[nn.Module]]] = {
    "stft": _stft,
    "period": _period,
    "band": _band,
}
