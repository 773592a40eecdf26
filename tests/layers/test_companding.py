import pytest
import torch
from torch import Tensor

from codec.layers import MDCT, Compress, Expand


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_expand_is_the_inverse_of_compress(exponent: float) -> None:
    x = torch.cat([torch.linspace(-10, 10, 1001), torch.tensor([1e-6, -1e-3, 0])])
    torch.testing.assert_close(Expand(exponent)(Compress(exponent)(x)), x)
    torch.testing.assert_close(Compress(exponent)(Expand(exponent)(x)), x)


def test_values_by_hand() -> None:
    x = torch.tensor([0.0, 0.15, -0.99, 8.99])
    assert Compress(0.5, knee=0.01)(x).tolist() == pytest.approx([0, 0.3, -0.9, 2.9])
    assert Compress(1.0)(x).tolist() == pytest.approx(x.tolist(), abs=1e-6)


@pytest.mark.parametrize("layer", [Compress(0.5), Expand(0.5)])
def test_the_slope_is_the_knees_at_0_and_never_vanishes(layer: Compress | Expand) -> None:
    x = torch.tensor([1e-9, -1e-9, 1.0, 100.0], requires_grad=True)
    layer(x).sum().backward()
    slope = 0.5 * 0.01**-0.5  # of the compression
    assert x.grad[:2].tolist() == pytest.approx([slope if isinstance(layer, Compress) else 1 / slope] * 2, rel=1e-3)
    assert (x.grad > 0).all()


@pytest.mark.parametrize("layer", [Compress(0.5), Expand(0.5)])
def test_the_maths_is_in_float32_under_autocast(layer: Compress | Expand) -> None:
    x = torch.logspace(-4, 1, 1000)
    half = x.bfloat16()
    expected = layer(x), layer(half.float()).bfloat16()  # what comes in half precision goes out so
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), expected[0])
        assert torch.equal(layer(half), expected[1])
    assert torch.equal(layer(half), expected[1])  # a network that was cast as a whole


def test_speech_spans_half_as_many_decibels(speech: Tensor) -> None:
    coefficients = MDCT(320, gain=10.0)(speech[..., : speech.shape[-1] // 320 * 320])
    frames = torch.stack([coefficients[0], Compress(0.5)(coefficients[0])]).square().mean(1)  # powers, [2, frames]
    linear, compressed = (10 * (frames.quantile(0.95, dim=1) / frames.quantile(0.05, dim=1)).log10()).tolist()
    assert 25 < linear < 60
    assert compressed == pytest.approx(linear / 2, rel=0.35)
