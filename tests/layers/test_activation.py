import math

import pytest
import torch

from codec.layers import ACTIVATIONS, Snake
from codec.layers.activation import elu


def snake(x, a):
    return x + math.sin(a * x) ** 2 / a


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_keeps_shape_and_kind_and_passes_the_gradient(name):
    activation = ACTIVATIONS[name](3)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 3, 5, dtype=dtype, requires_grad=True)
        y = activation(x)
        assert (y.shape, y.dtype) == (x.shape, dtype)
        y.sum().backward()
        assert x.grad.isfinite().all()
        assert x.grad.any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_silence_stays_silence(name):
    assert not ACTIVATIONS[name](3)(torch.zeros(1, 3, 5)).any()


def test_elu_is_the_exponential_below_zero():
    y = elu(1)(torch.tensor([[[-2.0, 0.0, 3.0]]]))
    assert y.flatten().tolist() == pytest.approx([math.exp(-2) - 1, 0, 3])


def test_snake_is_its_formula_for_each_channel():
    module = Snake(3)
    periods = [0.2, 1.0, 30.0]
    module.log_a.data = torch.tensor(periods).log()[:, None]
    x = 5 * torch.randn(2, 3, 4)
    expected = [
        [[snake(value, a) for value in row] for row, a in zip(rows, periods, strict=True)] for rows in x.tolist()
    ]
    torch.testing.assert_close(module(x), torch.tensor(expected), atol=1e-4, rtol=1e-5)


def test_snake_starts_near_the_identity():
    x = torch.linspace(-0.5, 0.5, 11)[None, None]
    torch.testing.assert_close(Snake(1)(x), x, atol=0.051, rtol=0)
    assert Snake(1, a=2.0).log_a.item() == pytest.approx(math.log(2))


def test_the_gradient_of_snake_is_that_of_its_formula():
    module = Snake(2, a=1.5).double()
    x = torch.randn(1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.log_a))


@pytest.mark.parametrize("log_a", [-80.0, -20.0, 20.0])
def test_snake_stays_finite_whatever_is_learned(log_a):
    module = Snake(1)
    module.log_a.data.fill_(log_a)
    x = torch.tensor([[[-1000.0, -1.0, 0.0, 1e-3, 1000.0]]], requires_grad=True)
    y = module(x)
    y.sum().backward()
    torch.testing.assert_close(y, x, atol=0.01, rtol=1e-2)
    assert x.grad.isfinite().all()
    assert module.log_a.grad.isfinite().all()


def test_snake_of_half_precision_has_the_sine_of_single_precision():
    module = Snake(1, a=50.0)
    x = torch.linspace(1, 20, 100).bfloat16()[None, None]
    assert torch.equal(module(x), module(x.float()).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), module(x.float()).bfloat16())
