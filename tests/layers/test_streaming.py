import copy
import io

import pytest
import torch
from torch import nn

from codec.layers import (
    LSTM,
    MDCT,
    CausalConv1d,
    CausalConvTranspose1d,
    ConvNeXtBlock,
    DropFirst,
    InverseMDCT,
    PadFirst,
    Residual,
    Snake,
    Stateful,
    streaming,
)

# A layer, its channels in, and how many frames the whole has.
LAYERS = {
    "pointwise": (lambda: CausalConv1d(3, 2, 1), 3, 17),
    "convolution": (lambda: CausalConv1d(3, 2, 4), 3, 17),
    "dilated": (lambda: CausalConv1d(4, 4, 3, groups=2, dilation=3), 4, 17),
    "strided": (lambda: CausalConv1d(3, 2, 6, stride=3), 3, 18),
    "strided and dilated": (lambda: CausalConv1d(3, 2, 3, dilation=2, stride=3), 3, 18),
    "jumping": (lambda: CausalConv1d(3, 2, 2, stride=5), 3, 20),
    "transposed": (lambda: CausalConvTranspose1d(3, 2, 6, 3), 3, 17),
    "transposed, without overlap": (lambda: CausalConvTranspose1d(3, 2, 3, 3), 3, 17),
    "transposed, long": (lambda: CausalConvTranspose1d(3, 2, 8, 3), 3, 17),
    "padded": (lambda: PadFirst(4), 3, 17),
    "dropping": (lambda: DropFirst(4), 3, 17),
    "dropping nothing": (lambda: DropFirst(0), 3, 17),
    "MDCT": (lambda: MDCT(4), 1, 20),
    "inverse MDCT": (lambda: InverseMDCT(4), 4, 17),
    "inverse MDCT of single samples": (lambda: InverseMDCT(1), 1, 17),
    "LSTM": (lambda: LSTM(3, num_layers=2), 3, 17),
    "ConvNeXt": (lambda: ConvNeXtBlock(6, kernel_size=5), 6, 17),
    "stack": (
        lambda: nn.Sequential(
            PadFirst(2), CausalConv1d(3, 4, 4, stride=2), Residual(nn.Sequential(Snake(4), CausalConv1d(4, 4, 3))),
            Residual(LSTM(4, 1)), CausalConvTranspose1d(4, 2, 6, 3), DropFirst(3),
        ),
        3, 18,
    ),
}  # fmt: skip


@pytest.fixture(params=LAYERS)
def layer_and_input(request):
    make, channels, frames = LAYERS[request.param]
    return make(), torch.randn(2, channels, frames)


def in_parts(layer, parts):
    with streaming(layer, 2):
        return torch.cat([layer(part) for part in parts], dim=-1)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_parts_give_the_whole(layer_and_input, size):
    layer, x = layer_and_input
    torch.testing.assert_close(in_parts(layer, x.split(size, dim=-1)), layer(x), atol=1e-6, rtol=1e-5)


def test_parts_may_be_empty_or_of_any_length(layer_and_input):
    layer, x = layer_and_input
    parts = x.split([0, 1, 0, 6, 0, 0, 2, x.shape[-1] - 9, 0], dim=-1)
    torch.testing.assert_close(in_parts(layer, parts), layer(x), atol=1e-6, rtol=1e-5)


def test_a_stream_starts_anew_each_time(layer_and_input):
    layer, x = layer_and_input
    assert torch.equal(in_parts(layer, [x]), in_parts(layer, [x]))
    in_parts(layer, [x[..., :3]])
    assert torch.equal(in_parts(layer, [x]), in_parts(layer, [x]))


def test_what_is_kept_is_a_copy_no_larger_than_it_has_to_be(layer_and_input):
    layer, x = layer_and_input
    expected = layer(x)
    buffer = x.new_zeros(2, x.shape[1], 6)
    returned = []
    with streaming(layer, 2):
        for part in x.split(6, dim=-1):
            buffer[..., : part.shape[-1]] = part
            returned.append(layer(buffer[..., : part.shape[-1]]).clone())
            buffer.zero_()
        states = [module.state for module in layer.modules() if isinstance(module, Stateful)]
        kept = [state.frames for state in states if isinstance(getattr(state, "frames", None), torch.Tensor)]
        assert all(tensor.untyped_storage().nbytes() == 4 * tensor.numel() for tensor in kept)
    torch.testing.assert_close(torch.cat(returned, dim=-1), expected, atol=1e-6, rtol=1e-5)


def test_no_gradient_passes_from_a_part_to_those_before(layer_and_input):
    layer, x = layer_and_input
    first, second = (part.clone().requires_grad_() for part in x.split([8, x.shape[-1] - 8], dim=-1))
    with streaming(layer, 2):
        layer(first)
        layer(second).square().sum().backward()
    assert second.grad.any()
    assert first.grad is None


def test_a_frame_comes_out_when_its_last_one_is_in():
    layer = CausalConv1d(1, 1, kernel_size=3, stride=2)
    layer.conv.weight.data = torch.tensor([[[100.0, 10.0, 1.0]]])
    layer.conv.bias.data = torch.tensor([0.5])
    with streaming(layer):
        outputs = [layer(torch.tensor([[[value]]])).flatten().tolist() for value in (1.0, 2.0, 3.0, 4.0)]
    assert outputs == [[], [12.5], [], [234.5]]


def test_state_is_none_outside_also_after_an_error(layer_and_input):
    layer, x = layer_and_input
    stateful = [module for module in layer.modules() if isinstance(module, Stateful)]
    assert stateful
    with pytest.raises(KeyError, match="of the caller"), streaming(layer, 2):
        assert all(module.state is not None for module in stateful)
        layer(x)
        raise KeyError("of the caller")
    assert all(module.state is None for module in stateful)


def test_a_stream_inside_a_stream_is_refused_and_the_outer_one_goes_on():
    layer, x = CausalConv1d(2, 2, 3), torch.randn(1, 2, 9)
    with streaming(layer):
        first = layer(x[..., :4])
        with pytest.raises(RuntimeError, match="a stream must end before another one starts"), streaming(layer):
            pass
        second = layer(x[..., 4:])
    torch.testing.assert_close(torch.cat([first, second], dim=-1), layer(x))


def test_a_stream_of_no_examples_is_refused():
    with pytest.raises(ValueError, match="batch_size must be positive; got 0"), streaming(nn.Identity(), 0):
        pass


def test_outside_of_streaming_a_layer_is_copied_and_saved_as_ever(layer_and_input):
    layer, x = layer_and_input
    names = list(layer.state_dict())
    in_parts(layer, [x])
    assert list(layer.state_dict()) == names
    saved = io.BytesIO()
    torch.save(layer, saved)
    loaded = torch.load(io.BytesIO(saved.getvalue()), weights_only=False)
    for other in (copy.deepcopy(layer), loaded):
        assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("name", ["strided", "transposed", "padded", "dropping", "MDCT", "inverse MDCT", "ConvNeXt"])
@torch.no_grad()
def test_outside_of_streaming_a_layer_compiles_into_one_graph(name):
    make, channels, frames = LAYERS[name]
    layer, x = make(), torch.randn(2, channels, frames)
    assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x), layer(x))
