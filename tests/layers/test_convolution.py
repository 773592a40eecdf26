import pytest
import torch

from codec.layers import CausalConv1d, DropFirst


def convolve_by_loops(layer: CausalConv1d, x: torch.Tensor) -> torch.Tensor:
    """Output channel o at t: bias + sum over its group's channels and over taps; zeros lie before the start."""
    weight, bias = layer.conv.weight, layer.conv.bias
    out_channels, group_channels, kernel_size = weight.shape
    groups = x.shape[1] // group_channels
    y = bias.detach().clone()[None, :, None].repeat(x.shape[0], 1, x.shape[2])
    for o in range(out_channels):
        start = o // (out_channels // groups) * group_channels
        for i in range(group_channels):
            for tap in range(kernel_size):
                back = kernel_size - 1 - tap
                for t in range(back, x.shape[2]):
                    y[:, o, t] += weight[o, i, tap].detach() * x[:, start + i, t - back]
    return y


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "kernel_size", "groups"), [(2, 3, 1, 1), (2, 3, 4, 1), (4, 4, 3, 4), (4, 6, 2, 2)]
)
def test_output_is_that_of_the_loops(in_channels, out_channels, kernel_size, groups):
    layer = CausalConv1d(in_channels, out_channels, kernel_size, groups)
    x = torch.randn(2, in_channels, 7)
    torch.testing.assert_close(layer(x), convolve_by_loops(layer, x))


def test_a_hand_computed_case():
    layer = CausalConv1d(1, 1, kernel_size=3)
    layer.conv.weight.data = torch.tensor([[[100.0, 10.0, 1.0]]])
    layer.conv.bias.data = torch.tensor([0.5])
    assert layer(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])).flatten().tolist() == [1.5, 12.5, 123.5, 234.5]


def test_an_output_depends_on_its_frame_and_those_before_it():
    layer = CausalConv1d(3, 3, kernel_size=4)
    x = torch.randn(1, 3, 12)
    changed = x.clone()
    changed[:, :, 5] += 1
    differs = (layer(changed) != layer(x)).any(dim=1).flatten()
    assert differs.nonzero().flatten().tolist() == [5, 6, 7, 8]


def test_a_sequence_in_two_parts_is_the_whole_if_the_second_starts_with_the_past_of_the_first():
    layer = CausalConv1d(3, 2, kernel_size=4)
    x = torch.randn(1, 3, 12)
    first, second = layer(x[..., :7]), layer(x[..., 7 - layer.past :])[..., layer.past :]
    torch.testing.assert_close(torch.cat([first, second], dim=-1), layer(x))


@pytest.mark.parametrize("frames", [0, 2, 5])
def test_drop_first_leaves_the_rest(frames):
    x = torch.randn(2, 3, 5)
    assert torch.equal(DropFirst(frames)(x), x[:, :, frames:])
