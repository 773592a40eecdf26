import tomllib

from codec.discriminators import DISCRIMINATORS, DiscriminatorConfig, build_discriminators
from codec.settings import settings_from


def test_settings_are_read_from_a_recipe():
    table = tomllib.loads('kinds = ["stft", "period"]\nstft_windows = [1024, 256]\nstft_channels = 8\nperiods = [3]')
    assert settings_from(table, DiscriminatorConfig) == DiscriminatorConfig(
        kinds=("stft", "period"), stft_windows=(1024, 256), stft_channels=8, periods=(3,)
    )


def test_without_settings_there_is_no_discriminator():
    assert settings_from({}, DiscriminatorConfig).kinds == ()


def test_the_default_sizes_of_every_kind_can_be_built():
    assert len(build_discriminators(DiscriminatorConfig(kinds=tuple(DISCRIMINATORS))).members) == 5 + 5 + 3
