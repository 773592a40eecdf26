"""What several tests of quantizers need."""

import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Remembers how much memory operations took.

    Attributes:
        elements: Of the largest tensor that any operation returned.
        peak: Bytes of what operations returned, at the moment when most of it was alive.
    """

    elements = 0
    peak = 0

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.numel())
                self._count(part.untyped_storage())
        return result

    def _count(self, storage) -> None:
        # A storage has one Python object for as long as it lives.
        if id(storage) not in self._alive:
            self._alive[id(storage)] = storage.nbytes()
            weakref.finalize(storage, self._alive.pop, id(storage))
            self.peak = max(self.peak, sum(self._alive.values()))


@pytest.fixture
def largest_tensor() -> LargestTensor:
    """As a context, watches the memory of what is called inside."""
    return LargestTensor()


@pytest.fixture
def compiled() -> Callable[..., Callable[..., object]]:
    """`torch.compile` into one graph, or an error."""
    torch._dynamo.reset()  # a function is compiled for no more than a few quantizers
    return partial(torch.compile, fullgraph=True, backend="aot_eager")
