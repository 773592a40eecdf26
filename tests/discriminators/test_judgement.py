import pytest
import torch

from codec.discriminators.judgement import samples_of


def test_a_waveform_loses_its_axis_of_channels():
    waveform = torch.randn(3, 1, 1)
    assert torch.equal(samples_of(waveform), waveform[:, 0])


@pytest.mark.parametrize("shape", [(2, 2, 100), (2, 100), (1, 1, 1, 100), (2, 1, 0)])
def test_another_shape_is_refused(shape):
    message = rf"waveform must be \[batch, 1, time\], of 1 sample or more; got \[{', '.join(map(str, shape))}\]"
    with pytest.raises(ValueError, match=message):
        samples_of(torch.zeros(shape))
