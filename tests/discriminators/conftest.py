"""Discriminators small enough for every test, one of each kind in the table."""

import pytest
from torch import nn

from codec.discriminators import DISCRIMINATORS, DiscriminatorConfig


@pytest.fixture
def config() -> DiscriminatorConfig:
    return DiscriminatorConfig(
        kinds=tuple(DISCRIMINATORS),
        stft_windows=(128, 64),
        stft_channels=4,
        periods=(2, 3),
        period_channels=2,
        band_windows=(64,),
        band_channels=4,
    )


@pytest.fixture(params=DISCRIMINATORS)
def discriminator(request: pytest.FixtureRequest, config: DiscriminatorConfig) -> nn.Module:
    """The last discriminator of each kind."""
    return DISCRIMINATORS[request.param](config)[-1]
