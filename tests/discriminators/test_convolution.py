import math

import pytest
import torch
from torch import nn

from codec.discriminators.convolution import HiddenLayers, convolution


@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((1, 2), (4, 1)), ((3, 1), (1, 2))])
@pytest.mark.parametrize("size", [1, 2, 7, 9])
def test_positions_are_those_of_the_input_over_the_stride_rounded_up(stride, dilation, size):
    layer = convolution(2, 3, (3, 5), stride, dilation)
    expected = [math.ceil(size / step) for step in stride]
    assert layer(torch.randn(1, 2, size, size)).shape == (1, 3, *expected)


def test_an_output_sees_dilated_neighbours_around_it_and_zeros_beyond_the_edge():
    layer = convolution(1, 1, (1, 3), dilation=(1, 2))
    layer.weight = torch.tensor([[[[100.0, 10.0, 1.0]]]])
    output = layer(torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]))
    torch.testing.assert_close(output, torch.tensor([[[[13.0, 24.0, 130.0, 240.0]]]]))


def test_length_and_direction_of_the_weights_are_parameters_of_their_own():
    layer = convolution(2, 3, (3, 3))
    before = layer.weight.detach().clone()
    length, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
    direction.data *= 7
    torch.testing.assert_close(layer.weight, before)
    length.data *= 2
    torch.testing.assert_close(layer.weight, 2 * before)


def test_activations_keep_their_size_from_layer_to_layer():
    layers = HiddenLayers(0.2, *(convolution(64, 64, (3, 3)) for _ in range(5)))
    outputs = layers(torch.randn(2, 64, 30, 30))
    assert all(0.5 < output.square().mean().sqrt() < 2 for output in outputs)


def test_hidden_layers_return_what_is_behind_each_activation():
    layers = HiddenLayers(0.1, nn.Identity(), convolution(1, 1, (1, 1)))
    layers.layers[1][0].weight = torch.tensor([[[[-2.0]]]])
    first, second = layers(torch.tensor([[[[3.0, -10.0]]]]))
    torch.testing.assert_close(first, torch.tensor([[[[3.0, -1.0]]]]))
    torch.testing.assert_close(second, torch.tensor([[[[-0.6, 2.0]]]]))
