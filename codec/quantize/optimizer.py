"""A codebook's own optimizer, with its state in the state dict."""

import torch
from torch import Tensor, nn

from codec.quantize.update import OptimizerFactory


class CodebookOptimizer(nn.Module):
    """An optimizer of torch whose state is buffers of this module, so that they are saved, loaded and moved with it.

    Args:
        factory: Makes the optimizer from a list of tensors.
        codebook_size: Number of codes.
        dim: Size of a code vector.

    Raises:
        ValueError: The optimizer's state does not start at zeros, or is not of the shape of the code vectors.

    Attributes:
        optimizer: The one of torch; schedules of the learning rate may change its `param_groups`.
    """

    def __init__(self, factory: OptimizerFactory, codebook_size: int, dim: int):
        super().__init__()
        self.state = nn.Module()  # apart, since names of buffers are those that the optimizer uses
        self._target = [torch.zeros(codebook_size, dim)]
        self.optimizer = factory(self._target)
        if any(group.get("dampening") for group in self.optimizer.param_groups):
            raise ValueError("dampening must be 0: SGD leaves it out at the first step, when its state is no zeros")
        # Optimizers make their state in the first step. After one without gradient it is what it started as, but for
        # the count of steps.
        self._step(torch.zeros(codebook_size, dim))
        for name, value in self.optimizer.state[self._target[0]].items():
            fits = isinstance(value, Tensor) and value.shape in ((), (codebook_size, dim))
            if not fits or (name != "step" and value.any()):
                raise ValueError(
                    f"the optimizer's state must start at zeros, a number for each value, as that of SGD or Adam does; "
                    f"got {name} of {type(self.optimizer).__name__}"
                )
            self.state.register_buffer(name, torch.zeros_like(value))

    def step(self, vectors: Tensor, gradient: Tensor) -> None:
        """Take a step, in place.

        Args:
            vectors: Moved, [codebook_size, dim].
            gradient: [codebook_size, dim].
        """
        self._target[0].data = vectors
        self.optimizer.state[self._target[0]] = dict(self.state.named_buffers())
        self._step(gradient)

    def reset(self, codes: Tensor) -> None:
        """Forget the past of some code vectors, [codes]."""
        for buffer in self.buffers():
            if buffer.ndim == 2:
                buffer[codes] = 0

    def _step(self, gradient: Tensor) -> None:
        self._target[0].grad = gradient
        self.optimizer.step()
        self._target[0].grad = None
