"""A network that is trained: the codec, or the discriminators that judge it."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from codec.train.recipe import OptimizerConfig
from codec.train.schedule import cosine_with_warmup


class Trainee:
    """A network, what Accelerate made of it, and its optimizer.

    Accelerate prepares the network alone. An optimizer that it prepares updates the gradient scaler of float16 at each
    step, so that of two optimizers the second would divide its gradients by the scale twice.

    Args:
        accelerator: Gives device, precision and the ranks to average gradients with.
        network: Its weights are equal on all ranks.
        config: Of the optimizer.

    Attributes:
        network: On the device.
        prepared: The same network as it is to be called: under autocast, with gradients averaged over the ranks.
        learning_rate: Of the next step.
    """

    def __init__(self, accelerator: Accelerator, network: nn.Module, config: OptimizerConfig):
        self.network = network
        self.config = config
        self.learning_rate = config.learning_rate
        self.prepared = accelerator.prepare(network)
        self.parameters = list(network.parameters())
        self._scaler = accelerator.scaler
        self._optimizer = torch.optim.AdamW(self.parameters, fused=True, **self._settings())

    def schedule(self, step: int, steps: int) -> None:
        """Set the learning rate for a step, from 0 on, of so many."""
        self.learning_rate = self.config.learning_rate * cosine_with_warmup(step, self.config.warmup_steps, steps)

    def clip(self) -> Tensor:
        """Shorten a gradient that is too long; its norm before, which is not finite if the gradient is not."""
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        return nn.utils.clip_grad_norm_(self.parameters, self.config.max_gradient_norm)

    def move(self) -> None:
        """Take a step along the gradient, which `clip` has seen."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        if self._scaler is None:
            self._optimizer.step()
        else:
            self._scaler.step(self._optimizer)

    def forget(self) -> None:
        """Drop the gradient."""
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Weights, and moments of the optimizer."""
        return {"network": self.network.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            RuntimeError, ValueError: It is of another network.
        """
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        # Those of the recipe, which may have been changed, rather than those of the checkpoint.
        for group in self._optimizer.param_groups:
            group.update(self._settings())

    def _settings(self) -> dict[str, Any]:
        return {
            "lr": self.learning_rate,
            "betas": self.config.betas,
            "weight_decay": self.config.weight_decay,
        }
