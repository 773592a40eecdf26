"""What several tests of quantizers need."""

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.numel())
        return result


@pytest.fixture
def largest_tensor() -> LargestTensor:
    """As a context, watches the memory of what is called inside."""
    return LargestTensor()
