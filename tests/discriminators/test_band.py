import math

import pytest
import torch

from codec.discriminators import BandDiscriminator
from codec.discriminators.band import BANDS, cut


@pytest.mark.parametrize(
    ("bins", "expected"),
    [
        (1025, [(0, 102), (102, 256), (256, 512), (512, 768), (768, 1025)]),
        (513, [(0, 51), (51, 128), (128, 256), (256, 384), (384, 513)]),
        (65, [(0, 6), (6, 16), (16, 32), (32, 48), (48, 65)]),
    ],
)
def test_bands_are_cut_where_the_paper_cuts_them(bins, expected):
    assert cut(bins, BANDS) == expected


@pytest.mark.parametrize("bands", [(), (1.0,), (0.0, 0.5, 0.5, 1.0), (0.5, 0.2), (0.0, 1.1), (-0.1, 1.0), (0.0, 0.01)])
def test_bands_that_are_none_are_refused(bands):
    message = r"bands must be ascending edges in \[0, 1\], a bin or more apart; got \(.*\) of 33 bins"
    with pytest.raises(ValueError, match=message):
        BandDiscriminator(64, 2, bands)


def test_a_tone_touches_the_features_of_its_band_alone(speech):
    discriminator = BandDiscriminator(128, 4)
    waveform = speech[..., 16_000:18_000]
    # In the middle of the fourth band, bins 32 to 47.
    tone = 0.1 * torch.sin(2 * math.pi * 40 / 128 * torch.arange(2000))
    before, after = discriminator(waveform), discriminator(waveform + tone)
    # Frames at both ends see the tone begin and end.
    changes = [(a - b)[:, :, 16:-16].abs().max() for a, b in zip(after.features, before.features, strict=True)]
    assert min(changes[15:20]) > 0.1
    assert max(changes[:15] + changes[20:]) < 1e-3
    assert (after.logits - before.logits).abs().max() > 0.01


def test_shapes_are_those_documented():
    judgement = BandDiscriminator(128, 3, bands=(0.0, 0.1, 1.0))(torch.randn(2, 1, 1000))
    frames = 1000 // 32 + 1
    assert [tuple(feature.shape) for feature in judgement.features] == [
        (2, 3, frames, bins) for bins in (6, 3, 2, 1, 1, 59, 30, 15, 8, 8)
    ]
    assert judgement.logits.shape == (2, 1, frames, 1 + 8)


def test_by_default_the_bands_are_those_of_the_paper():
    assert len(BandDiscriminator(64, 2)(torch.randn(1, 1, 10)).features) == 25
