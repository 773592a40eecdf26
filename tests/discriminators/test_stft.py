import torch
import torch.nn.functional as F

from codec.discriminators import STFTDiscriminator


def test_the_layers_are_those_of_the_figure():
    discriminator = STFTDiscriminator(64, 3)
    waveform = torch.randn(2, 1, 200)
    judgement = discriminator(waveform)
    x = discriminator.spectrogram(waveform)
    # Padding in time and frequency, then stride in frequency, then dilation in time.
    shapes = [((1, 4), 1, 1), ((1, 4), 2, 1), ((2, 4), 2, 2), ((4, 4), 2, 4), ((1, 1), 1, 1)]
    for layer, feature, (padding, stride, dilation) in zip(
        discriminator.hidden.layers, judgement.features, shapes, strict=True
    ):
        x = F.conv2d(x, layer[0].weight, layer[0].bias, (1, stride), padding, (dilation, 1))
        x = torch.where(x > 0, x, 0.2 * x)
        torch.testing.assert_close(feature, x)
    last = discriminator.last
    torch.testing.assert_close(judgement.logits, F.conv2d(x, last.weight, last.bias, padding=1))


def test_shapes_are_those_documented():
    judgement = STFTDiscriminator(128, 3)(torch.randn(2, 1, 1000))
    frames = 1000 // 32 + 1
    assert [tuple(feature.shape) for feature in judgement.features] == [
        (2, 3, frames, bins) for bins in (65, 33, 17, 9, 9)
    ]
    assert judgement.logits.shape == (2, 1, frames, 9)
