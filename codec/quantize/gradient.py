"""Values from one tensor, gradients to another."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, carrier: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def carry(carrier: Tensor, value: Tensor) -> Tensor:
    """A value whose gradient goes to the carrier, as in `carrier + (value - carrier).detach()`.

    That sum would cost three passes over memory, and miss the last bits of the value.

    Args:
        carrier: Where gradients go.
        value: A constant, in the shape of the carrier; its memory is shared.
    """
    return _Carry.apply(carrier, value.detach())
