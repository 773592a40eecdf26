import pytest
import torch

from codec.layers import CausalConv1d, CausalConvTranspose1d, DropFirst, PadFirst


def convolve_by_loops(layer: CausalConv1d, x: torch.Tensor) -> torch.Tensor:
    """Output channel o at t: bias + sum over its group's channels and over taps; zeros lie before the start."""
    weight, bias = layer.conv.weight, layer.conv.bias
    (stride,), (dilation,) = layer.conv.stride, layer.conv.dilation
    out_channels, group_channels, kernel_size = weight.shape
    groups = x.shape[1] // group_channels
    y = bias.detach().clone()[None, :, None].repeat(x.shape[0], 1, x.shape[2] // stride)
    for o in range(out_channels):
        start = o // (out_channels // groups) * group_channels
        for i in range(group_channels):
            for tap in range(kernel_size):
                for t in range(y.shape[2]):
                    seen = (t + 1) * stride - 1 - (kernel_size - 1 - tap) * dilation
                    if seen >= 0:
                        y[:, o, t] += weight[o, i, tap].detach() * x[:, start + i, seen]
    return y


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "kernel_size", "options"),
    [
        (2, 3, 1, {}),
        (2, 3, 4, {}),
        (4, 4, 3, {"groups": 4}),
        (4, 6, 2, {"groups": 2}),
        (2, 3, 3, {"dilation": 2}),
        (2, 3, 6, {"stride": 3}),
        (2, 3, 3, {"stride": 3}),
        (2, 3, 3, {"stride": 3, "dilation": 2}),
    ],
)
def test_output_is_that_of_the_loops(in_channels, out_channels, kernel_size, options):
    layer = CausalConv1d(in_channels, out_channels, kernel_size, **options)
    x = torch.randn(2, in_channels, 9)
    torch.testing.assert_close(layer(x), convolve_by_loops(layer, x))


def test_a_hand_computed_case():
    layer = CausalConv1d(1, 1, kernel_size=3)
    layer.conv.weight.data = torch.tensor([[[100.0, 10.0, 1.0]]])
    layer.conv.bias.data = torch.tensor([0.5])
    assert layer(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])).flatten().tolist() == [1.5, 12.5, 123.5, 234.5]


@pytest.mark.parametrize(
    ("options", "touched"),
    [({}, [5, 6, 7, 8]), ({"dilation": 2}, [5, 7, 9, 11]), ({"stride": 2}, [2, 3]), ({"stride": 3}, [1, 2])],
)
def test_an_output_depends_on_its_frame_and_those_before_it(options, touched):
    layer = CausalConv1d(3, 3, kernel_size=4, **options)
    x = torch.randn(1, 3, 12)
    changed = x.clone()
    changed[:, :, 5] += 1
    differs = (layer(changed) != layer(x)).any(dim=1).flatten()
    assert differs.nonzero().flatten().tolist() == touched


def test_a_sequence_in_two_parts_is_the_whole_if_the_second_starts_with_the_past_of_the_first():
    layer = CausalConv1d(3, 2, kernel_size=4)
    x = torch.randn(1, 3, 12)
    first, second = layer(x[..., :7]), layer(x[..., 7 - layer.past :])[..., layer.past :]
    torch.testing.assert_close(torch.cat([first, second], dim=-1), layer(x))


@pytest.mark.parametrize(("kernel_size", "stride"), [(6, 3), (3, 3), (4, 3), (1, 1)])
def test_a_frame_adds_its_kernel_to_its_own_outputs_and_those_after(kernel_size, stride):
    layer = CausalConvTranspose1d(2, 3, kernel_size, stride)
    x = torch.randn(2, 2, 4)
    expected = layer.conv.bias.detach()[None, :, None].repeat(2, 1, 4 * stride)
    for frame in range(4):
        for tap in range(kernel_size):
            if frame * stride + tap < 4 * stride:
                expected[..., frame * stride + tap] += x[..., frame] @ layer.conv.weight.detach()[..., tap]
    torch.testing.assert_close(layer(x), expected)


def test_a_transposed_convolution_is_causal():
    layer = CausalConvTranspose1d(2, 3, kernel_size=6, stride=3)
    x = torch.randn(1, 2, 6)
    changed = x.clone()
    changed[..., 3] += 1
    differs = (layer(changed) != layer(x)).any(dim=1).flatten()
    assert differs.nonzero().flatten().tolist() == [9, 10, 11, 12, 13, 14]
    torch.testing.assert_close(layer(x[..., :4]), layer(x)[..., :12])


@pytest.mark.parametrize("frames", [0, 2, 5])
def test_drop_first_leaves_the_rest(frames):
    x = torch.randn(2, 3, 5)
    assert torch.equal(DropFirst(frames)(x), x[:, :, frames:])


@pytest.mark.parametrize("frames", [0, 2, 5])
def test_pad_first_puts_zeros_before(frames):
    x = torch.randn(2, 3, 5)
    padded = PadFirst(frames)(x)
    assert torch.equal(padded[..., frames:], x)
    assert padded.shape[-1] == 5 + frames
    assert not padded[..., :frames].any()
