import pytest
import torch
import torch.nn.functional as F

from codec.discriminators import PeriodDiscriminator
from codec.discriminators.period import fold


@pytest.mark.parametrize(
    ("samples", "period", "rows"),
    [
        ([0, 1, 2, 3, 4, 5, 6], 3, [[0, 1, 2], [3, 4, 5], [6, 5, 4]]),
        ([0, 1, 2, 3, 4, 5], 3, [[0, 1, 2], [3, 4, 5]]),
        ([0, 1, 2], 1, [[0], [1], [2]]),
        ([1, 2, 3], 5, [[1, 2, 3, 2, 1]]),
        ([1, 2, 3], 6, [[1, 2, 3, 0, 0, 0]]),
        ([1], 3, [[1, 0, 0]]),
    ],
)
def test_samples_are_written_in_rows_of_a_period(samples, period, rows):
    assert fold(torch.tensor([[samples]]).float(), period).tolist() == [[rows]]


def test_each_phase_of_the_period_is_a_signal_that_the_same_convolutions_go_over():
    discriminator = PeriodDiscriminator(3, 2)
    waveform = torch.randn(2, 1, 600)
    judgement = discriminator(waveform)
    for phase in range(3):
        x = waveform[..., phase::3]
        for layer, stride, feature in zip(
            discriminator.hidden.layers, (3, 3, 3, 3, 1), judgement.features, strict=True
        ):
            x = F.conv1d(x, layer[0].weight[..., 0], layer[0].bias, stride, padding=2)
            x = torch.where(x > 0, x, 0.1 * x)
            torch.testing.assert_close(feature[..., phase], x)
        last = discriminator.last
        logits = F.conv1d(x, last.weight[..., 0], last.bias, padding=1)
        torch.testing.assert_close(judgement.logits[..., phase], logits)


def test_shapes_are_those_documented():
    judgement = PeriodDiscriminator(5, 2)(torch.randn(2, 1, 4003))
    shapes = [(2, 267), (8, 89), (32, 30), (64, 10), (64, 10)]
    assert [tuple(feature.shape) for feature in judgement.features] == [(2, *shape, 5) for shape in shapes]
    assert judgement.logits.shape == (2, 1, 10, 5)
