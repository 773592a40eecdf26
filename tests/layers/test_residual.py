import torch
from torch import nn

from codec.layers import Residual


def test_output_is_the_input_and_what_the_branch_makes_of_it():
    x = torch.randn(2, 3, 5)
    torch.testing.assert_close(Residual(nn.Tanh())(x), x + x.tanh())
