from dataclasses import replace

import pytest
import torch

from codec.discriminators import (
    BandDiscriminator,
    PeriodDiscriminator,
    STFTDiscriminator,
    build_discriminators,
)


def test_sizes_are_built_kind_by_kind_in_the_order_given(config):
    members = build_discriminators(replace(config, kinds=("band", "stft", "period"))).members
    assert [type(member) for member in members] == [
        BandDiscriminator, STFTDiscriminator, STFTDiscriminator, PeriodDiscriminator, PeriodDiscriminator,
    ]  # fmt: skip
    band, first, second, *periods = members
    assert [each.spectrogram.window_length for each in (band, first, second)] == [64, 128, 64]
    assert [each.period for each in periods] == [2, 3]


@pytest.mark.parametrize(("kind", "setting"), [("stft", "stft_channels"), ("band", "band_channels")])
def test_channels_of_spectrograms_are_those_of_all_layers(config, kind, setting):
    for judgement in build_discriminators(replace(config, kinds=(kind,), **{setting: 3}))(torch.randn(1, 1, 100)):
        assert {feature.shape[1] for feature in judgement.features} == {3}


def test_channels_of_periods_are_those_of_the_first_layer(config):
    judgement = build_discriminators(replace(config, kinds=("period",), period_channels=3))(torch.randn(1, 1, 100))[0]
    assert [feature.shape[1] for feature in judgement.features] == [3, 12, 48, 96, 96]


def test_one_kind_is_built_without_the_others(config):
    assert len(build_discriminators(replace(config, kinds=("stft",), periods=(), band_channels=0)).members) == 2


def test_the_same_seed_gives_the_same_weights(config):
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_discriminators(config).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ()}, r"kinds must name one of band, period, stft or more; got \(\)"),
        ({"kinds": ("stf",)}, "kind of discriminator must be one of .*; got 'stf'; did you mean 'stft'"),
        ({"stft_windows": ()}, r"stft_windows must be one or more positive numbers; got \(\)"),
        ({"stft_windows": (64, 0)}, r"stft_windows must be one or more positive numbers; got \(64, 0\)"),
        ({"stft_windows": (66,)}, "window_length must be a positive multiple of 4; got 66"),
        ({"periods": (2, -1)}, r"periods must be one or more positive numbers; got \(2, -1\)"),
        ({"band_windows": ()}, r"band_windows must be one or more positive numbers; got \(\)"),
        ({"band_windows": (16,)}, "bands must be ascending edges .* of 9 bins"),
        ({"stft_channels": 0}, "stft_channels must be positive; got 0"),
        ({"period_channels": -1}, "period_channels must be positive; got -1"),
        ({"band_channels": 0}, "band_channels must be positive; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        build_discriminators(replace(config, **settings))
