"""Streams: layers that go on where the last part of the input ended, so that the parts give what the whole would.

A layer with state has an attribute `state`. It is None as a rule: the input is a whole, with zeros before it. Inside
`streaming` it holds what the layer needs of the input so far; the layer takes any number of frames, none too, returns
those that became final, and keeps what it needs for the next. No gradient passes from one part to those before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Stateful(Protocol):
    """A layer that can stream.

    Attributes:
        state: A dataclass of the layer inside `streaming`, else None.
    """

    state: Any

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first frame of so many streams."""


@dataclass
class Past:
    """State of layers that need the last frames of their input again.

    Attributes:
        frames: [batch, channels, frames].
    """

    frames: Tensor

    def before(self, x: Tensor) -> Tensor:
        """The frames, and after them those of `x`, [batch, channels, frames + time]."""
        return torch.cat([self.frames, x], dim=-1)

    def keep(self, x: Tensor) -> None:
        """Take other frames, [batch, channels, frames]."""
        # A copy, since a slice would hold all that it was cut from in memory.
        self.frames = x.detach().clone()


@contextmanager
def streaming(module: nn.Module, batch_size: int = 1) -> Iterator[None]:
    """Let the layers of a module stream; at the end, after an error too, their state is gone.

    Layers without state must not need one: a strided `torch.nn.Conv1d` gets the right frames only if each part of the
    input comes to whole strides there.

    Args:
        module: Any network, with layers of this package in it.
        batch_size: Streams side by side.

    Raises:
        ValueError: `batch_size` is not positive.
        RuntimeError: The module streams already.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive; got {batch_size}")
    # By hand, as `isinstance` with a protocol takes milliseconds for the modules of a codec.
    layers = [cast(Stateful, layer) for layer in module.modules() if hasattr(layer, "initial_state")]
    if any(layer.state is not None for layer in layers):
        raise RuntimeError("a stream must end before another one starts; batch_size makes several side by side")
    try:
        for layer in layers:
            layer.state = layer.initial_state(batch_size)
        yield
    finally:
        for layer in layers:
            layer.state = None
