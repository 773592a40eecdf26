"""How code vectors learn: small classes of settings. Their state lives in `Codebook`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

OptimizerFactory = Callable[[list[Tensor]], Optimizer]


class Update(Protocol):
    """What a `Codebook` asks of the way it learns.

    Attributes:
        by_gradient: Whether the code vectors are a parameter that an optimizer of the caller's moves.
        optimizer: Makes the codebook's own optimizer; None if it has none.
        fixed: Whether the code vectors never change.
        dead_ratio: Codes used less than this times uniform use are replaced; 0 keeps all.
        decay: Weight of the past in the moving average of the codes' use.
        synchronous: How much of the gradient at the output the chosen code vectors get.
    """

    by_gradient: ClassVar[bool]
    fixed: ClassVar[bool]

    @property
    def optimizer(self) -> OptimizerFactory | None: ...

    @property
    def dead_ratio(self) -> float: ...

    @property
    def decay(self) -> float: ...

    @property
    def synchronous(self) -> float: ...

    def move(self, vectors: Tensor, usage: Tensor, share: Tensor, sums: Tensor) -> Tensor:
        """The code vectors after a step; of an update with an optimizer, before the optimizer's step.

        Args:
            vectors: Code vectors before, [k, dim].
            usage: Moving average of each code's share of the rows, before, [k].
            share: Each code's share of this step's rows, [k].
            sums: Sum of the rows that chose each code, divided by the number of all rows, [k, dim].
        """
        ...


@dataclass(frozen=True)
class EMA:
    """Each code vector is the moving average of the rows that chose it (van den Oord et al. 2017, appendix A.1).

    The default: needs no learning rate, and follows an encoder that moves.

    Attributes:
        decay: Weight of the past, in (0, 1). 0.99 forgets in about 100 steps.
        epsilon: Laplace smoothing: pseudo-use spread evenly over all codes, relative to the use of all.
        dead_ratio: Codes used less than this times uniform use are replaced by rows of the batch, in [0, 1); 0 keeps
            all.

    Raises:
        ValueError: A setting is out of range; so do the other classes.
    """

    by_gradient: ClassVar[bool] = False
    fixed: ClassVar[bool] = False
    optimizer: ClassVar[None] = None
    synchronous: ClassVar[float] = 0.0
    decay: float = 0.99
    epsilon: float = 1e-5
    dead_ratio: float = 0.1

    def __post_init__(self) -> None:
        _check(self)
        # Without it a code that is never used divides zero by zero, in the end.
        if not self.epsilon > 0:
            raise ValueError(f"epsilon must be positive; got {self.epsilon}")

    def move(self, vectors: Tensor, usage: Tensor, share: Tensor, sums: Tensor) -> Tensor:
        # The running sum of the paper is not stored: it is the vector times its smoothed use, so that vector, sum
        # and count cannot come apart when a codebook is initialized, or a code replaced.
        past = vectors * self._smooth(usage).unsqueeze(1)
        present = torch.lerp(sums, past, self.decay)
        moved = present / self._smooth(torch.lerp(share, usage, self.decay)).unsqueeze(1)
        # Nothing was seen of a code that no row chose: smoothing alone would draw it to 0, step by step.
        return torch.where((share > 0).unsqueeze(1), moved, vectors)

    def _smooth(self, usage: Tensor) -> Tensor:
        return (usage + self.epsilon / usage.shape[0]) / (1 + self.epsilon)


@dataclass(frozen=True)
class Gradient:
    """Code vectors are parameters, moved by the codebook loss |q - sg(x)|^2 (van den Oord et al. 2017, eq. 3).

    For codebooks that other losses shape as well, and for the low-dimensional ones of DAC. The loss stands in the
    result as "codebook"; add it to the training loss with a weight, 1 in the paper.

    Attributes:
        decay: Weight of the past in the moving average of the codes' use, in (0, 1).
        dead_ratio: As in `EMA`. The caller's optimizer keeps its moments of a code that is replaced.
        synchronous: v, in [0, 1]: the chosen code vectors also get v times the gradient that arrives at the output, so
            that codebook and encoder move in step (arXiv 2305.08842). For training in which the
            commitment loss stays high because the codebook lags behind.
    """

    by_gradient: ClassVar[bool] = True
    fixed: ClassVar[bool] = False
    optimizer: ClassVar[None] = None
    decay: float = 0.99
    dead_ratio: float = 0.1
    synchronous: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        if not 0 <= self.synchronous <= 1:
            raise ValueError(f"synchronous must be in [0, 1]; got {self.synchronous}")

    def move(self, vectors: Tensor, usage: Tensor, share: Tensor, sums: Tensor) -> Tensor:
        return vectors


def _adam(tensors: list[Tensor]) -> Optimizer:
    return torch.optim.Adam(tensors, lr=1e-3)


@dataclass(frozen=True)
class InPlace:
    """An optimizer of the codebook's own takes a step on the codebook loss inside `forward` (arXiv 2305.08842).

    For a learning rate or momentum that differs from those of the networks, and for training loops that should not
    know of codebooks. The gradient comes from the rows of all ranks, and is the same on all.

    Attributes:
        optimizer: Makes it from a list of tensors; Adam at a learning rate of 1e-3 unless given. Its state is part of
            the state dict; it must start at zeros, as that of SGD, Adam, AdamW and RMSprop does.
        decay: Weight of the past in the moving average of the codes' use, in (0, 1).
        dead_ratio: As in `EMA`. A replaced code starts with the optimizer's state at zeros.
    """

    by_gradient: ClassVar[bool] = False
    fixed: ClassVar[bool] = False
    synchronous: ClassVar[float] = 0.0
    optimizer: OptimizerFactory = _adam
    decay: float = 0.99
    dead_ratio: float = 0.1

    def __post_init__(self) -> None:
        _check(self)

    def move(self, vectors: Tensor, usage: Tensor, share: Tensor, sums: Tensor) -> Tensor:
        return vectors


@dataclass(frozen=True)
class Frozen:
    """Code vectors stay as they were initialized or loaded, for example to fine-tune around given codes.

    Attributes:
        decay: Weight of the past in the moving average of the codes' use, in (0, 1).
    """

    by_gradient: ClassVar[bool] = False
    fixed: ClassVar[bool] = True
    optimizer: ClassVar[None] = None
    synchronous: ClassVar[float] = 0.0
    dead_ratio: ClassVar[float] = 0.0
    decay: float = 0.99

    def __post_init__(self) -> None:
        _check(self)

    def move(self, vectors: Tensor, usage: Tensor, share: Tensor, sums: Tensor) -> Tensor:
        return vectors


UPDATES: dict[str, type[EMA] | type[Gradient] | type[InPlace] | type[Frozen]] = {
    "ema": EMA,
    "gradient": Gradient,
    "in_place": InPlace,
    "frozen": Frozen,
}


def _check(update: Update) -> None:
    if not 0 < update.decay < 1:
        raise ValueError(f"decay must be in (0, 1); got {update.decay}")
    if not 0 <= update.dead_ratio < 1:
        raise ValueError(f"dead_ratio must be in [0, 1); got {update.dead_ratio}")
